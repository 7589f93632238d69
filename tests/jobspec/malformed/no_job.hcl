# expect 1:1 no job in this file; expected job "name" {
variable "a" {
  default = 1
}

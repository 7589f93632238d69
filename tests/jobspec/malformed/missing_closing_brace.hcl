# expect 4:1 found the end of the file; expected } for the block group of line 3
job "web" {
  group "g" {

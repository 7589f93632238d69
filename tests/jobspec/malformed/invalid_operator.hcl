# expect 5:17 "~=" is no operator; expected one of = == is != not < <= > >= regexp version semver set_contains set_contains_all set_contains_any is_set is_not_set distinct_hosts distinct_property
job "web" {
  constraint {
    attribute = "${attr.cpu.arch}"
    operator  = "~="
    value     = "arm64"
  }
  group "g" {
    task "t" {
      driver = "docker"
      config {
        image = "a"
      }
    }
  }
}

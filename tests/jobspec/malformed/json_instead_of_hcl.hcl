# expect 2:1 found {; expected an argument (name = value) or a block (name { … })
{"Job": {"ID": "web"}}

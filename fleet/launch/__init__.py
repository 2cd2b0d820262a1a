"""`python -m fleet.launch`: start, watch, explain and end the processes of one run. docs/launch.md"""

# The front door; all logic is behind it. "make help" tells what there is.

run:	## the main job: base against stack in every default lane; report in build/report
	@ci/main

check:	## the tests: stack, harness, models, every patch, lanes, lockdep, mutations
	@ci/check

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

.PHONY: run check help

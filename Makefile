# The front door; all logic is behind it. "make help" tells what there is.

run:	## the main job: base against stack in every default lane; report in build/report. TREE=DIR: on your tree
	@ci/run $(if $(TREE),--onto "$(TREE)",--series)

report:	## keeps the last run's table and plots, in results/
	@ci/report

check:	## the tests: stack, harness, every patch builds, lanes, mutations
	@ci/check

soak:	## everything: all upstream selftests in all lanes, lockdep, all mutations; hours
	@ci/soak

clean:	## removes what was built below build/, and kernels nobody has used for 30 days
	@ci/prune --build

help:	## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

.PHONY: run report check soak clean help

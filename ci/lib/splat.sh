# shellcheck shell=bash
# Kernel splats in a console log, by the policy in ci/splats. Sourced by ci/run and the tests.
#
# ci/splats/deny    extended regular expressions, one a line, each under a comment that says
#                   what it stands for; a console line that matches is a splat
# ci/splats/allow   the same, for lines that are known and harmless, each with its reason
#
# A log that is missing or empty is a splat: a check that saw nothing has not passed.

patterns() {
	grep -vE '^(#|$)' "$1" || true
}

# splats LOG: prints "TEST: LINE" for each splat, TEST being the one that ran at the time, or
# "boot". Exit 0 if there is none, 1 if there are.
splats() {
	local found

	if [[ ! -s $1 ]]; then
		echo "boot: the console log $1 is missing or empty"
		return 1
	fi
	# The two greps must not share a pipeline: an empty allow list would match everything.
	found=$(tr -d '\r' <"$1" | awk '
		match($0, /ci: begin [^ ]+/) { test = substr($0, RSTART + 10, RLENGTH - 10) }
		match($0, /ci: end [^ ]+/) { test = "" ; next }
		{ print (test ? test : "boot") ": " $0 }' |
		grep -aE -f <(patterns "$ROOT/ci/splats/deny") || true)
	if [[ $found && $(patterns "$ROOT/ci/splats/allow") ]]; then
		found=$(grep -avE -f <(patterns "$ROOT/ci/splats/allow") <<<"$found" || true)
	fi
	[[ -z $found ]] && return 0
	printf '%s\n' "$found"
	return 1
}

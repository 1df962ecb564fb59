# shellcheck shell=bash
# Kernel splats in a console log, by the policy in ci/splats. Sourced by ci/run and the tests.
#
# ci/splats/deny    extended regular expressions, one a line, each under a comment that says
#                   what it stands for; a console line that matches is a splat
# ci/splats/allow   the same, for lines that are known and harmless, each with its reason
# ci/splats/errata  the same, for lines that show that the emulator is at fault
#
# A log that is missing or empty is a splat: a check that saw nothing has not passed.

patterns() {
	grep -vE '^(#|$)' "$1" || true
}

# by_test LOG: the lines, each behind "TEST: ", TEST being the one that ran at the time, or "boot".
by_test() {
	tr -d '\r' <"$1" | awk '
		match($0, /ci: begin [^ ]+/) { test = substr($0, RSTART + 10, RLENGTH - 10) }
		match($0, /ci: end [^ ]+/) { test = "" ; next }
		{ print (test ? test : "boot") ": " $0 }'
}

# splats LOG: prints "TEST: LINE" for each splat. Exit 0 if there is none, 1 if there are.
splats() {
	local found

	if [[ ! -s $1 ]]; then
		echo "boot: the console log $1 is missing or empty"
		return 1
	fi
	# The two greps must not share a pipeline: an empty allow list would match everything.
	found=$(by_test "$1" |
		grep -aE -f <(patterns "$ROOT/ci/splats/deny") || true)
	if [[ $found && $(patterns "$ROOT/ci/splats/allow") ]]; then
		found=$(grep -avE -f <(patterns "$ROOT/ci/splats/allow") <<<"$found" || true)
	fi
	[[ -z $found ]] && return 0
	printf '%s\n' "$found"
	return 1
}

# blame_emulator DIR: if the console shows an erratum of the emulator, makes that the outcome of the
# test it came with and of those that didn't pass after it, in DIR/outcomes, and drops their splats
# from DIR/splats. Exit 0 if so, 1 if there is none.
blame_emulator() {
	local sign

	sign=$(by_test "$1/console" | grep -aE -m1 -f <(patterns "$ROOT/ci/splats/errata") || true)
	[[ $sign ]] || return 1
	awk -F'\t' -v OFS='\t' -v first="${sign%%: *}" -v why="${sign#*: }" '
		$1 == first { since = 1 }
		$1 == first || (since && $2 != "passed" && $2 != "skipped") { $2 = "erratum"; $4 = why }
		{ print }' "$1/outcomes" >"$1/outcomes.new"
	mv "$1/outcomes.new" "$1/outcomes"
	grep -vFf <(awk -F'\t' '$2 == "erratum" { print $1 ": " }' "$1/outcomes") "$1/splats" >"$1/splats.new" || true
	mv "$1/splats.new" "$1/splats"
}

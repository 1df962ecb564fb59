# shellcheck shell=bash
# Kernel splats in a console log, by the policy in ci/splats, whose format is in ci/README.md.
# Sourced by ci/run and the tests, after scripts/common.sh.
#
# A scan that can't be made has found nothing, and is no pass: a policy that cannot be read, or that
# lets everything through, is an error, and a log that is missing or empty is a splat.

declare -gA POLICY=()	# file below ci/splats -> its patterns

# read_policy: fills POLICY, once. A "^" at the beginning of a pattern is the beginning of the kernel's words:
# of the line, behind the "TEST: " of by_test(), or what follows a time stamp, if there is one.
read_policy() {
	local name words line code

	((${#POLICY[@]} == 0)) || return 0
	for name in deny allow errata aftermath; do
		[[ -r $ROOT/ci/splats/$name ]] || die $E_USAGE "cannot read ci/splats/$name"
		words=
		while IFS= read -r line || [[ $line ]]; do
			[[ $line != '^'* ]] || line='(^[^ ]+: |\] *)'${line:1}
			[[ -z $line || $line == '#'* ]] || words+=${words:+$'\n'}$line
		done <"$ROOT/ci/splats/$name"
		[[ $words || $name == allow ]] || die $E_USAGE "ci/splats/$name holds no pattern"
		# "a^" matches nothing, where an empty pattern would match everything.
		POLICY[$name]=${words:-a^}
		code=0
		grep -qE -e "${POLICY[$name]}" <<<'boot: [    0.000000] Linux version 7' 2>/dev/null || code=$?
		((code != 0)) || die $E_USAGE "ci/splats/$name: a pattern matches every line, or nearly so (blanks?)"
		((code == 1)) || die $E_USAGE "ci/splats/$name: a pattern is no extended regular expression"
	done
}

# by_policy NAME [-v]: the lines on stdin that match, or don't.
by_policy() {
	LC_ALL=C grep -aE ${2+"$2"} -e "${POLICY[$1]}" || (($? == 1))
}

# by_test LOG: the lines, each behind "TEST: ", TEST being the one that ran at the time, or "boot".
by_test() {
	awk '
		{ gsub(/\r/, "") }
		match($0, /ci: begin [^ ]+/) { test = substr($0, RSTART + 10, RLENGTH - 10) }
		match($0, /ci: end [^ ]+/) { test = "" ; next }
		{ print (test ? test : "boot") ": " $0 }' "$1"
}

# splats LOG: prints "TEST: LINE" for each splat. Exit 0 if there is none, 1 if there are.
splats() {
	local found

	read_policy
	if [[ ! -s $1 ]]; then
		echo "boot: the console log $1 is missing or empty"
		return 1
	fi
	found=$(by_test "$1" | by_policy deny | by_policy allow -v) || die $E_ENV "cannot search $1"
	[[ $found ]] || return 0
	printf '%s\n' "$found"
	return 1
}

# blame_emulator DIR: if the console shows a sign of an erratum of the emulator, makes that the outcome,
# in DIR/outcomes, of the test it came with and of those that didn't pass after it, and drops sign and
# aftermath from their splats in DIR/splats. Any other splat stays. Exit 0 if so, 1 if there is none.
blame_emulator() {
	local signs

	read_policy
	signs=$(by_test "$1/console" | by_policy errata) || die $E_ENV "cannot search $1/console"
	[[ $signs ]] || return 1
	signs=${signs%%$'\n'*}
	awk -F'\t' -v OFS='\t' -v first="${signs%%: *}" -v why="${signs#*: }" '
		$1 == first { since = 1 }
		$1 == first || (since && $2 != "passed" && $2 != "skipped") { $2 = "erratum"; $4 = why }
		{ print }' "$1/outcomes" >"$1/outcomes.new"
	mv "$1/outcomes.new" "$1/outcomes"
	{ by_policy errata <"$1/splats"; by_policy aftermath <"$1/splats"; } >"$1/forgiven"
	awk -F'\t' -v outcomes="$1/outcomes" -v forgiven="$1/forgiven" '
		FILENAME == outcomes { if ($2 == "erratum") blamed[$1]; next }
		FILENAME == forgiven { forgive[$0]; next }
		!(substr($0, 1, index($0, ": ") - 1) in blamed && $0 in forgive)' \
		"$1/outcomes" "$1/forgiven" "$1/splats" >"$1/splats.new"
	mv "$1/splats.new" "$1/splats"
}

# shellcheck shell=bash
# Lanes and test sets, which are data: ci/lanes/NAME, ci/sets/NAME, ci/expectations. Their formats
# are in ci/README.md. Sourced by ci/run, after scripts/common.sh.

declare -gA LANE=()	# key -> value of the lane last read
KUT=''	# a built checkout of kvm-unit-tests, which QEMU runs in all lanes of their architecture

lane_names() {
	(cd "$ROOT/ci/lanes" && printf '%s\n' *)
}

# match_lanes WORDS: names as they are, patterns as the lanes they match.
match_lanes() {
	local word words lane found

	read -ra words <<<"$1"
	for word in ${words[@]+"${words[@]}"}; do
		[[ $word == *[*?[]* ]] || { echo "$word"; continue; }
		found=
		while read -r lane; do
			! matches "$lane" "$word" || { echo "$lane"; found=1; }
		done < <(lane_names)
		[[ $found ]] || die $E_USAGE "no lane matches '$word'; there are: $(lane_names | paste -sd' ')"
	done | awk '!seen[$0]++' | paste -sd' '
}

# read_lane NAME: fills LANE: the keys of the file and of the lane it is "like", and name, about,
# image, console.
read_lane() {
	local like key

	[[ -f $ROOT/ci/lanes/$1 ]] || die $E_USAGE "no lane '$1'; there are: $(lane_names | paste -sd' ')"
	LANE=()
	like=
	while IFS= read -r key; do
		[[ $key != like=* ]] || like=${key#like=}
	done <"$ROOT/ci/lanes/$1"
	if [[ $like ]]; then
		[[ -f $ROOT/ci/lanes/$like ]] || die $E_USAGE "ci/lanes/$1: like=$like: no such lane"
		! grep -q '^like=' "$ROOT/ci/lanes/$like" || die $E_USAGE "ci/lanes/$1: like=$like: which is like another one itself"
		lane_keys "$like"
	fi
	# Nobody gets a lane by default because the one it is like is one.
	LANE[default]=no LANE[about]='' LANE[name]=$1
	lane_keys "$1"
	for key in arch emulator machine cpu smp memory config append tests; do
		[[ ${LANE[$key]+set} ]] || die $E_USAGE "ci/lanes/$1: no '$key='"
	done
	for key in ${LANE[tests]}; do
		[[ -f $ROOT/ci/sets/$key ]] || die $E_USAGE "ci/lanes/$1: tests=: no set '$key'; there are: $(set_names | paste -sd' ')"
	done
	[[ -z $KUT || ${LANE[arch]} != x86_64 ]] || LANE[vmm]=qemu-system-x86_64
	if [[ ${LANE[guest]-} ]]; then
		[[ ${LANE[vmm]-} ]] || die $E_USAGE "ci/lanes/$1: guest= wants vmm="
		[[ -f $ROOT/ci/lanes/${LANE[guest]} ]] || die $E_USAGE "ci/lanes/$1: guest=${LANE[guest]}: no such lane"
	fi
	case ${LANE[arch]} in
	x86_64) LANE[image]=bzImage LANE[console]=ttyS0,115200 ;;
	arm64) LANE[image]=Image LANE[console]=ttyAMA0 ;;
	riscv) LANE[image]=Image LANE[console]=ttyS0 ;;
	*) die $E_USAGE "ci/lanes/$1: no way to boot arch '${LANE[arch]}'" ;;
	esac
}

# lane_keys NAME: what the file says. Its lines for the lane's plan are LANE[plan].
lane_keys() {
	local line known=' like arch emulator suite package machine cpu smp memory icount config append vmm guest tests default '

	while IFS= read -r line; do
		case $line in
		'# '*) LANE[about]=${LANE[about]:-${line#\# }} ;;
		'') ;;
		'set '* | 'swap '* | user) LANE[plan]+=$line$'\n' ;;
		*=*)
			[[ $known == *" ${line%%=*} "* ]] || die $E_USAGE "ci/lanes/$1: no key '${line%%=*}'; there are:$known"
			LANE[${line%%=*}]=${line#*=}
			;;
		*) die $E_USAGE "ci/lanes/$1: cannot read '$line'" ;;
		esac
	done <"$ROOT/ci/lanes/$1"
}

# image_arch FILE: the arch, in the lanes' words, that a kernel image is for; fails if it is none.
# The magic numbers are those of Documentation/arch/{x86/boot,arm64/booting,riscv/boot-image-header}.rst.
image_arch() {
	if [[ $(dd if="$1" bs=1 skip=514 count=4 status=none | tr -d '\0') == HdrS ]]; then
		echo x86_64
	elif [[ $(dd if="$1" bs=1 skip=56 count=4 status=none | tr -d '\0') == ARMd ]]; then
		echo arm64
	elif [[ $(dd if="$1" bs=1 skip=56 count=4 status=none | tr -d '\0') == $'RSC\x05' ]]; then
		echo riscv
	else
		return 1
	fi
}

# program_arch FILE: the same for a program.
program_arch() {
	case $(readelf -h "$1" 2>/dev/null | sed -n 's/^ *Machine: *//p') in
	*X86-64) echo x86_64 ;;
	AArch64) echo arm64 ;;
	RISC-V) echo riscv ;;
	*) echo unknown ;;
	esac
}

# lanes_of ARCH LANES: those of the lanes that are for ARCH.
lanes_of() {
	local l

	for l in $2; do
		read_lane "$l"
		if [[ ${LANE[arch]} == "$1" ]]; then
			echo "$l"
		fi
	done | paste -sd' '
}

# default_lanes WHOLE: WHOLE is not empty if the lanes are for a run of everything.
default_lanes() {
	local l

	for l in $(lane_names); do
		read_lane "$l"
		if [[ ${LANE[default]} == yes || (-n $1 && ${LANE[default]} == whole) ]]; then
			echo "$l"
		fi
	done
}

set_names() {
	(cd "$ROOT/ci/sets" && printf '%s\n' *)
}

# tests_of SET: its lines without comments: NAME SECONDS PROGRAM ARG...
tests_of() {
	grep -vE '^(#|$)' "$ROOT/ci/sets/$1"
}

# plan_words WORD...: in one line, as ci/guest/init.c takes it apart again, whatever is in them.
plan_words() {
	local word words=()

	for word; do
		word=${word//\\/\\134}
		word=${word// /\\040}
		word=${word//$'\t'/\\011}
		word=${word//$'\n'/\\012}
		words+=("${word:-\\000}")
	done
	printf '%s\n' "${words[*]}"
}

# lane_plan: what the lane sets before its tests.
lane_plan() {
	cat "$ROOT/ci/guest/plan"
	if [[ -f $ROOT/ci/guest/plan.${LANE[arch]} ]]; then
		cat "$ROOT/ci/guest/plan.${LANE[arch]}"
	fi
	printf '%s' "${LANE[plan]-}"
}

# fits SET: whether the set is for the architecture of the lane ("# arch:"; without, for all).
fits() {
	local arch

	arch=$(sed -n 's/^# arch: //p' "$ROOT/ci/sets/$1")
	[[ -z $arch || $arch == "${LANE[arch]}" ]]
}

# select_tests LANE-SETS WANTED: prints "SET NAME SECONDS PROGRAM ARG..." for the lane's sets,
# or, where WANTED (comma separated, names of tests or of sets) is not empty, for those of them
# that are for its architecture.
select_tests() {
	local s w line found wanted

	if [[ -z $2 ]]; then
		for s in $1; do
			tests_of "$s" | sed "s/^/$s /"
		done
		return
	fi
	# Patterns are of tests, not of files.
	IFS=', ' read -ra wanted <<<"$2"
	for w in ${wanted[@]+"${wanted[@]}"}; do
		found=
		if [[ -f $ROOT/ci/sets/$w ]]; then
			found=1
			if fits "$w"; then
				tests_of "$w" | sed "s/^/$w /"
			fi
			continue
		fi
		if [[ $w == *[*?[]* ]]; then
			while read -r s line; do
				matches "${line%% *}" "$w" || continue
				found=1
				! fits "$s" || printf '%s %s\n' "$s" "$line"
			done < <(for s in $(set_names); do tests_of "$s" | sed "s/^/$s /"; done | awk '!seen[$2]++')
			[[ $found ]] || die $E_USAGE "no test or set '$w'; see ci/run --list"
			continue
		fi
		while read -r s line; do
			found=1
			if fits "$s"; then
				printf '%s %s\n' "$s" "$line"
				break
			fi
		done < <(cd "$ROOT/ci/sets" && awk -v w="$w" '$1 == w && !seen[FILENAME]++ { print substr(FILENAME, 3), $0 }' ./*)
		[[ $found ]] || die $E_USAGE "no test or set '$w'; see ci/run --list"
	done
}

# read_expectation LINE: fills EXPECTED with its lanes, kernels, test, outcome, words, reason; fails if
# there is none in it.
declare -gA EXPECTED=()
read_expectation() {
	local field='[[:space:]]*([^[:space:]]*)' reason pattern=''

	[[ $1 =~ ^${field}${field}${field}${field}[[:space:]]*(.*)$ ]]
	[[ ${BASH_REMATCH[1]} && ${BASH_REMATCH[1]} != "#"* ]] || return 1
	reason=${BASH_REMATCH[5]}
	if [[ $reason == /* ]]; then
		pattern=${reason#/}
		pattern=${pattern%%/ *}
		reason=${reason:${#pattern} + 3}
	fi
	EXPECTED=([lanes]=${BASH_REMATCH[1]} [kernels]=${BASH_REMATCH[2]} [test]=${BASH_REMATCH[3]} [outcome]=${BASH_REMATCH[4]}
		[words]=$pattern [reason]=$reason)
}

# expectation LANE KERNEL TEST: fills EXPECTED with the first line of ci/expectations that is about it;
# without one, outcome, words and reason are empty.
expectation() {
	local i

	check_expectations
	for ((i = 0; i < ${#EXPECT_TEST[@]}; i++)); do
		# shellcheck disable=SC2053 # patterns are meant
		[[ $3 == ${EXPECT_TEST[i]} && ( ${EXPECT_KERNELS[i]} == any || ${EXPECT_KERNELS[i]} == "$2" ) ]] || continue
		read_expectation "${EXPECT_LINE[i]}"
		! matches "$1" "${EXPECTED[lanes]}" || return 0
	done
	EXPECTED=([outcome]='' [words]='' [reason]='')
}

# check_expectations: that every line can be read. Reads them once.
declare -ga EXPECT_LINE=() EXPECT_TEST=() EXPECT_KERNELS=()
check_expectations() {
	local line code

	((${#EXPECT_LINE[@]} == 0)) || return 0
	while IFS= read -r line; do
		read_expectation "$line" || continue
		# shellcheck disable=SC2319 # 2: no regular expression
		[[ '' =~ ${EXPECTED[words]} ]] 2>/dev/null && code=0 || code=$?
		[[ ${EXPECTED[kernels]} =~ ^(any|base|stack)$ && ${EXPECTED[outcome]} =~ ^(skip|fail|omit)$ &&
			${EXPECTED[reason]} && $code != 2 ]] || die $E_USAGE "ci/expectations: cannot read '$line'"
		EXPECT_LINE+=("$line") EXPECT_TEST+=("${EXPECTED[test]}") EXPECT_KERNELS+=("${EXPECTED[kernels]}")
	done <"$ROOT/ci/expectations"
}

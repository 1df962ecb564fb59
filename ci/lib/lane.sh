# shellcheck shell=bash
# Lanes and test sets, which are data: ci/lanes/NAME, ci/sets/NAME, ci/expectations.
# Sourced by ci/run, after scripts/common.sh.

declare -gA LANE=()	# key -> value of the lane last read

lane_names() {
	(cd "$ROOT/ci/lanes" && printf '%s\n' *)
}

# read_lane NAME: fills LANE. Keys: arch emulator machine cpu smp memory config append tests
# default (yes; no; whole: in runs that ask for no test, program or shell); about, from the first line; image and console, from arch. Where Debian stable's emulator
# is too old: suite, package. Where tests want to run a VMM: vmm. Where time is to be what QEMU's -icount
# makes of it: icount, its argument.
read_lane() {
	local file=$ROOT/ci/lanes/$1 line

	[[ -f $file ]] || die $E_USAGE "no lane '$1'; there are: $(lane_names | paste -sd' ')"
	LANE=([name]=$1)
	while IFS= read -r line; do
		case $line in
		'# '*) LANE[about]=${LANE[about]-${line#\# }} ;;
		'') ;;
		*=*) LANE[${line%%=*}]=${line#*=} ;;
		*) die $E_USAGE "ci/lanes/$1: cannot read '$line'" ;;
		esac
	done <"$file"
	local key
	for key in arch emulator machine cpu smp memory config append tests default; do
		[[ ${LANE[$key]+set} ]] || die $E_USAGE "ci/lanes/$1: no '$key='"
	done
	case ${LANE[arch]} in
	x86_64) LANE[image]=bzImage LANE[console]=ttyS0,115200 ;;
	arm64) LANE[image]=Image LANE[console]=ttyAMA0 ;;
	*) die $E_USAGE "ci/lanes/$1: no way to boot arch '${LANE[arch]}'" ;;
	esac
}

# image_arch FILE: the arch, in the lanes' words, that a kernel image is for; fails if it is none.
# The magic numbers are those of Documentation/arch/{x86/boot,arm64/booting}.rst.
image_arch() {
	if [[ $(dd if="$1" bs=1 skip=514 count=4 status=none) == HdrS ]]; then
		echo x86_64
	elif [[ $(dd if="$1" bs=1 skip=56 count=4 status=none | tr -d '\0') == ARMd ]]; then
		echo arm64
	else
		return 1
	fi
}

# program_arch FILE: the same for a program.
program_arch() {
	case $(readelf -h "$1" 2>/dev/null | sed -n 's/^ *Machine: *//p') in
	*X86-64) echo x86_64 ;;
	AArch64) echo arm64 ;;
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

# lane_plan: what the lane sets before its tests.
lane_plan() {
	cat "$ROOT/ci/guest/plan"
	if [[ -f $ROOT/ci/guest/plan.${LANE[arch]} ]]; then
		cat "$ROOT/ci/guest/plan.${LANE[arch]}"
	fi
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
	local s w line found

	if [[ -z $2 ]]; then
		for s in $1; do
			tests_of "$s" | sed "s/^/$s /"
		done
		return
	fi
	for w in ${2//,/ }; do
		found=
		if [[ -f $ROOT/ci/sets/$w ]]; then
			found=1
			if fits "$w"; then
				tests_of "$w" | sed "s/^/$w /"
			fi
			continue
		fi
		for s in $(set_names); do
			line=$(tests_of "$s" | grep -E "^$w " | head -n 1 || true)
			if [[ $line ]]; then
				found=1
				if fits "$s"; then
					printf '%s %s\n' "$s" "$line"
					break
				fi
			fi
		done
		[[ $found ]] || die $E_USAGE "no test or set '$w'; see ci/run --list"
	done
}

# expectation LANE KERNEL TEST: prints "OUTCOME REASON" if ci/expectations has a line for it.
expectation() {
	local lanes kernels test outcome reason l

	while read -r lanes kernels test outcome reason; do
		[[ $lanes == "#"* || -z $lanes ]] && continue
		# shellcheck disable=SC2053 # patterns are meant
		[[ $3 == $test && ( $kernels == any || $kernels == "$2" ) ]] || continue
		for l in ${lanes//,/ }; do
			# shellcheck disable=SC2053
			if [[ $1 == $l ]]; then
				printf '%s %s\n' "$outcome" "$reason"
				return
			fi
		done
	done <"$ROOT/ci/expectations"
}

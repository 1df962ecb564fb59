#!/usr/bin/env bats
# ci/run and its parts: wrong usage, verdicts, splats, expectations, accelerator; no VM.

load common

setup() {
	copy_project
	RUN=$PROJECT/ci/run
}

# part FILE...: sources parts of the runner.
part() {
	local f

	. "$PROJECT/scripts/common.sh"
	trap - ERR
	for f; do
		. "$PROJECT/ci/lib/$f.sh"
	done
}

@test "every program has --help, and it names its options and exit codes" {
	for program in scripts/stack ci/run ci/kernel ci/selftests ci/compare ci/models ci/native ci/mutants ci/check ci/soak ci/debian ci/report; do
		run "$PROJECT/$program" --help
		[[ $status == 0 && ${#lines[@]} -gt 5 && $output == *"Exit"* ]] || { echo "$program: $output"; false; }
	done
	run make -s -C "$PROJECT" help
	[[ $status == 0 && $output == *"make run"* && $output == *"make check"* ]]
}

@test "an emulator that cannot be had is the environment's fault, before anything is built" {
	sed 's/^suite=.*/suite=no-such-suite/; s/^package=.*/package=no-such-package/' "$PROJECT/ci/lanes/arm64-nv" >"$PROJECT/ci/lanes/far"
	no_network
	run "$RUN" --lane far
	fails_with 3 "cannot download no-such-package of no-such-suite"
}

@test "a lane of Bochs wants what makes its CD, and no other lane does" {
	# A machine that has all but these.
	mkdir "$BATS_TEST_TMPDIR/bin"
	ln -s /bin/* /usr/bin/* "$BATS_TEST_TMPDIR/bin/" 2>/dev/null || true
	rm -f "$BATS_TEST_TMPDIR"/bin/{apt-get,grub-mkrescue,xorriso,bochs-bin}
	printf '#!/bin/sh\necho "E: not here"\nexit 100\n' >"$BATS_TEST_TMPDIR/bin/apt-get"
	chmod +x "$BATS_TEST_TMPDIR/bin/apt-get"
	sed -i 's,/usr/lib/grub/i386-pc/linux.mod,/no/such/linux.mod,' "$PROJECT/ci/run" "$PROJECT/scripts/packages"
	for lane in vmx-ept vmx-shadow; do
		PATH=$BATS_TEST_TMPDIR/bin run "$RUN" --lane $lane
		fails_with 3 "cannot install grub-common grub-pc-bin xorriso: E: not here"
	done
	for program in grub-mkrescue xorriso; do
		printf '#!/bin/sh\n' >"$BATS_TEST_TMPDIR/bin/$program"
		chmod +x "$BATS_TEST_TMPDIR/bin/$program"
	done
	PATH=$BATS_TEST_TMPDIR/bin run "$RUN" --lane vmx-ept
	fails_with 3 "cannot install grub-pc-bin: E: not here"
	# The emulator itself comes of its suite, next.
	sed -i 's,/no/such/linux.mod,/bin/sh,' "$PROJECT/ci/run" "$PROJECT/scripts/packages"
	PATH=$BATS_TEST_TMPDIR/bin run "$RUN" --lane vmx-ept
	fails_with 3 "cannot download bochs of trixie"
	rm "$BATS_TEST_TMPDIR"/bin/{grub-mkrescue,xorriso,qemu-system-x86_64}
	PATH=$BATS_TEST_TMPDIR/bin run "$RUN" --lane svm-tdp
	fails_with 3 "cannot install qemu-system-x86: E: not here"
}

@test "wrong usage ends with one line and exit 2, before anything is built" {
	run "$RUN" --frobnicate
	fails_with 2 "unknown option '--frobnicate'"
	run "$RUN" --lane nowhere
	fails_with 2 "no lane 'nowhere'; there are: arm64-"
	run "$RUN" --test nothing
	fails_with 2 "no test or set 'nothing'"
	run "$RUN" --lane arm64-el2 --test upstream-all
	fails_with 2 "nothing of upstream-all is for arm64"
	run "$RUN" --repeat many
	fails_with 2 "--repeat takes a number"
	run "$RUN" --kernel ./no/such/bzImage
	fails_with 2 "no such kernel image"
	head -c 4096 /dev/zero >"$BATS_TEST_TMPDIR/zero"
	run "$RUN" --kernel "$BATS_TEST_TMPDIR/zero"
	fails_with 2 "is no bzImage"
	run "$RUN" --program ./no-such-program
	fails_with 2 "is no executable file"
	run "$RUN" --program "$(command -v git)"
	fails_with 2 "is not static"
	run "$RUN" --shell --test new
	fails_with 2 "--shell goes without --test"
	run "$RUN" -- arguments
	fails_with 2 "'--' goes with --program"
	run "$RUN" --lane
	fails_with 2 "--lane wants a name"
	[[ $(ls "$KVM_STACK_BUILD") == bin ]]
}

@test "the other programs: wrong usage" {
	run "$PROJECT/ci/kernel" --tree base
	fails_with 2 "wants --tree and --config"
	run "$PROJECT/ci/kernel" --tree base --config none
	fails_with 2 "no config 'none'"
	run "$PROJECT/ci/kernel" --tree base --config lane
	fails_with 3 "no base tree yet"
	run "$PROJECT/ci/selftests"
	fails_with 2 "wants --tree"
	run "$PROJECT/ci/mutants" none
	fails_with 2 "no mutation 'none'"
	run "$PROJECT/ci/models" none
	fails_with 2 "no litmus test or model 'none'"
	run "$PROJECT/ci/models" --none
	fails_with 2 "unknown option '--none'"
	run "$PROJECT/ci/native" none
	fails_with 2 "no program 'none' in native"
	run "$PROJECT/ci/native" --none
	fails_with 2 "unknown option '--none'"
	run "$PROJECT/ci/check" none
	fails_with 2 "no step 'none'"
	run "$PROJECT/ci/soak" none
	fails_with 2 "takes no arguments"
}

@test "ci/check ends with what failed" {
	fake_bed
	fake_trees
	# Few of them are enough to see one fail.
	find "$PROJECT/ci" -maxdepth 1 -type f ! -name check ! -name mutants ! -name prune -delete
	rm -r "$PROJECT/ci/guest/programs" "$PROJECT"/tests 2>/dev/null || true
	printf '#!/bin/sh\n' >"$PROJECT/ci/kernel"
	echo "cd \$1" >>"$PROJECT/ci/mutants"
	run "$PROJECT/ci/check" shell
	fails_with 1 "1 failed, 0 skipped"
	[[ ${lines[-2]} == "shell: not ok - shellcheck ci/mutants" ]]
	[[ ${lines[-3]} == "What failed:" ]]
	# What is tested is what the patches say.
	echo more >>"$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: More"
	run "$PROJECT/ci/check" shell
	fails_with 3 "commits since its base that are not in series"
}

@test "ci/init is no program to run by hand" {
	gcc -o "$BATS_TEST_TMPDIR/init" "$PROJECT/ci/guest/init.c"
	run "$BATS_TEST_TMPDIR/init"
	fails_with 2 "PID 1 of a lane"
}

@test "--list shows every lane and the sets" {
	run "$RUN" --list
	[[ $status == 0 ]]
	for lane in "$PROJECT"/ci/lanes/*; do
		[[ $output == *"${lane##*/}"* ]]
	done
	[[ $output == *"mirror-get"* && $output == *"[default]"* ]]
}

@test "a lane file that misses a key is wrong usage" {
	sed -i '/^cpu=/d' "$PROJECT/ci/lanes/svm-tdp"
	run "$RUN" --lane svm-tdp
	fails_with 2 "no 'cpu='"
	echo 'what is this' >>"$PROJECT/ci/lanes/svm-shadow"
	run "$RUN" --lane svm-shadow
	fails_with 2 "cannot read 'what is this'"
}

@test "a lane says what differs from the one it is like, in keys that exist" {
	part lane
	printf '%s\n' '# Small.' like=svm-tdp smp=5 >"$PROJECT/ci/lanes/small"
	read_lane small
	[[ ${LANE[smp]} == 5 && ${LANE[cpu]} == max,+svm,+npt && ${LANE[tests]} == "new upstream perf" ]]
	[[ ${LANE[about]} == Small. && ${LANE[name]} == small && ${LANE[default]} == no ]]
	printf '%s\n' 'set /sys/kernel/mm/ksm/run a=b' user >>"$PROJECT/ci/lanes/small"
	read_lane small
	[[ $(lane_plan | tail -n 2) == $'set /sys/kernel/mm/ksm/run a=b\nuser' ]]
	sed 's/^tests=.*//' "$PROJECT/ci/lanes/small" >"$PROJECT/ci/lanes/other"
	echo 'tests=new upstraem' >>"$PROJECT/ci/lanes/other"
	run "$RUN" --lane other
	fails_with 2 "ci/lanes/other: tests=: no set 'upstraem'; there are: "
	rm "$PROJECT/ci/lanes/other"
	echo icuont=1 >>"$PROJECT/ci/lanes/small"
	run "$RUN" --lane small
	fails_with 2 "ci/lanes/small: no key 'icuont'; there are: like arch"
	echo like=svm-shadow >"$PROJECT/ci/lanes/small"
	run "$RUN" --lane small
	fails_with 2 "like=svm-shadow: which is like another one itself"
	echo like=none >"$PROJECT/ci/lanes/small"
	run "$RUN" --lane small
	fails_with 2 "like=none: no such lane"
	printf '%s\n' like=svm-tdp guest=none >"$PROJECT/ci/lanes/small"
	run "$RUN" --lane small
	fails_with 2 "guest= wants vmm="
	echo vmm=qemu-system-x86_64 >>"$PROJECT/ci/lanes/small"
	run "$RUN" --lane small
	fails_with 2 "guest=none: no such lane"
}

@test "every test that a lane runs, is expected of, or is caught by, exists" {
	part lane
	for lane in $(lane_names); do
		read_lane "$lane"
		for s in ${LANE[tests]}; do
			[[ -f $ROOT/ci/sets/$s ]]
		done
	done
	names=$(cd "$ROOT/ci/sets" && grep -vhE '^(#|$)' * | cut -d' ' -f1)
	declare -A known=()
	for name in $names; do known[$name]=1; done
	check_expectations
	while read -r line; do
		read_expectation "$line" || continue
		# A failure that isn't told from others would hide them.
		[[ ${EXPECTED[outcome]} != fail || ${EXPECTED[words]} ]] || { echo "no words: $line"; false; }
		compgen -W "$names" -X "!${EXPECTED[test]}" >/dev/null || { echo "no test: $line"; false; }
	done <"$ROOT/ci/expectations"
	# Of each mutation, its head: what must catch it, where, and in which words.
	awk 'FNR == 1 { end = 0 } /^---$/ { end = 1 } !end && /^(Test|Lane|Expect): ./ { sub(/:.*/, "", $1); print FILENAME, $1, $2 }' \
		"$ROOT"/ci/mutations/*.patch >"$BATS_TEST_TMPDIR/heads"
	[[ $(wc -l <"$BATS_TEST_TMPDIR/heads") == $((3 * $(ls "$ROOT/ci/mutations" | wc -l))) ]]
	while read -r m key value; do
		case $key in
		Test) [[ ${known[$value]-} ]] || { echo "$m: no test $value"; false; } ;;
		Lane) [[ -f $ROOT/ci/lanes/$value ]] || { echo "$m: no lane $value"; false; } ;;
		esac
	done <"$BATS_TEST_TMPDIR/heads"
	# No name stands for two tests of an architecture.
	for arch in x86_64 arm64 riscv; do
		names=$(cd "$ROOT/ci/sets" && awk -v arch=$arch 'FNR == 1 { of = "" } sub(/^# arch: /, "") { of = $0; next }
			/^[^#]/ && (of == "" || of == arch) { print $1 }' *)
		[[ -z $(sort <<<"$names" | uniq -d | grep -vFx -f <(tests_of upstream | cut -d' ' -f1)) ]]
	done
}

@test "new-defaults has every new selftest of x86 that is no benchmark" {
	part lane
	diff <(tests_of new-defaults | cut -d' ' -f3- | sort) \
		<(cd "$ROOT/selftests" && printf '%s\n' {,x86/}*_test.c | sed 's/\.c$//' | grep -v _perf_test | sort)
}

@test "verdict.awk: golden cases" {
	for plan in "$BATS_TEST_DIRNAME"/verdict/*.plan; do
		out=$BATS_TEST_TMPDIR/$(basename "$plan" .plan)
		mkdir -p "$out"
		: >"$out/values"
		awk -v RACES=1 -v LOGS="$out" -v VALUES="$out/values" -f "$PROJECT/ci/lib/verdict.awk" "$plan" "${plan%.plan}.verdict" >"$out/outcomes"
		cat "$out/outcomes" "$out/values" | diff -u "${plan%.plan}.expected" -
		# Without threads, there is nothing to blame the emulator for.
		awk -v LOGS="$out" -v VALUES="$out/values" -f "$PROJECT/ci/lib/verdict.awk" "$plan" "${plan%.plan}.verdict" >"$out/outcomes"
		refute grep -q $'\terratum\t' "$out/outcomes"
	done
}

@test "splats: every pattern's case is found, clean logs are clean, an empty one is not" {
	part splat
	read_policy
	for log in "$PROJECT"/ci/splats/cases/*.log; do
		run splats "$log"
		case ${log##*/} in
		clean-*) [[ $status == 0 && -z $output ]] || { echo "$log: $output"; false; } ;;
		*) [[ $status == 1 && $output ]] || { echo "$log: nothing found"; false; } ;;
		esac
		# A kernel without time stamps says the same.
		sed -E 's/^\[ *[0-9.]+\] //' "$log" >"$BATS_TEST_TMPDIR/plain"
		found=$output
		run splats "$BATS_TEST_TMPDIR/plain"
		[[ $(wc -l <<<"$output") == $(wc -l <<<"$found") && ${output:+x} == "${found:+x}" ]] || { echo "$log, no time stamps: $output"; false; }
	done
	# Each pattern of the policy has a case that nothing but it would find.
	cat "$PROJECT"/ci/splats/cases/[!c]*.log >"$BATS_TEST_TMPDIR/all"
	while read -r pattern; do
		grep -qE -e "$pattern" "$BATS_TEST_TMPDIR/all" || { echo "no case for $pattern"; false; }
	done <<<"${POLICY[deny]}"
	: >"$BATS_TEST_TMPDIR/empty"
	run splats "$BATS_TEST_TMPDIR/empty"
	[[ $status == 1 && $output == *"missing or empty"* ]]
	run splats "$BATS_TEST_TMPDIR/none"
	[[ $status == 1 ]]
}

@test "splats: laid at the door of the test, and what is allowed is not counted" {
	part splat
	run splats "$PROJECT/ci/splats/cases/warn.log"
	[[ $output == "mirror-get: "* ]]
	echo 'WARNING: .*mmu\.c' >>"$ROOT/ci/splats/allow"
	run splats "$PROJECT/ci/splats/cases/warn.log"
	[[ $status == 0 ]]
}

@test "splats: what shows the emulator's erratum is told apart from the kernel's faults" {
	part splat
	dir=$BATS_TEST_TMPDIR
	printf '%s\t%s\t0\t%s\n' one failed a two failed b three passed '' four lost c >"$dir/outcomes"
	{
		echo '[    1.0] ci: begin one'
		echo '[    2.0] WARNING: arch/arm64/kvm/mmu.c:1 at kvm_unmap_gfn_range+0x24/0x1c0, CPU#0: one/70'
		echo '[    3.0] ci: end one'
		echo '[    4.0] ci: begin two'
		echo '[    5.0] WARNING: arch/arm64/kvm/debug.c:157 at kvm_vcpu_load_debug+0x24/0x1c0, CPU#0: two/71'
		echo '[    6.0] ci: end two'
	} >"$dir/console"
	splats "$dir/console" >"$dir/splats" || true
	blame_emulator "$dir"
	[[ $(cut -f1,2 "$dir/outcomes" | paste -sd' ' | tr '\t' =) == "one=failed two=erratum three=passed four=erratum" ]]
	[[ $(<"$dir/splats") == "one: "*kvm_unmap_gfn_range* ]]
	sed -i '/load_debug/d' "$dir/console"
	run blame_emulator "$dir"
	[[ $status == 1 ]]
	# On x86, or elsewhere in arm64's KVM, it is the kernel's fault.
	while read -r pattern; do
		run grep -hE -e "$pattern" "$ROOT"/ci/splats/cases/*.log
		[[ $status == 1 ]] || { echo "$output"; false; }
	done <<<"${POLICY[errata]}"
}

# host FLAGS MODULE NESTED: what the host has, as far as accelerator() looks.
host() {
	export KVM_CI_DEVICE=$BATS_TEST_TMPDIR/kvm KVM_CI_CPUINFO=$BATS_TEST_TMPDIR/cpuinfo
	export KVM_CI_MODULES=$BATS_TEST_TMPDIR/module
	touch "$KVM_CI_DEVICE"
	echo "flags		: fpu $1 sse" >"$KVM_CI_CPUINFO"
	rm -rf "$KVM_CI_MODULES"
	mkdir -p "$KVM_CI_MODULES/$2/parameters"
	echo "$3" >"$KVM_CI_MODULES/$2/parameters/nested"
}

# accelerators: of an emulated lane and of the one for hardware.
accelerators() {
	(read_lane svm-tdp; accelerator)
	(read_lane hw; accelerator) || echo "exit $?"
}

@test "accelerator: kvm only with the flag, nesting on, and a usable /dev/kvm" {
	part lane bochs newer vm
	host svm kvm_amd 1
	[[ $(accelerators | paste -sd' ') == "kvm kvm" ]]
	[[ $(read_lane svm-tdp-icount; accelerator) == tcg ]]
	host vmx kvm_intel Y
	[[ $(accelerators | paste -sd' ') == "kvm kvm" ]]
	[[ $(ACCEL=tcg accelerators 2>/dev/null | paste -sd' ') == "tcg exit 2" ]]
	host svm kvm_amd 0
	[[ $(ACCEL=kvm; (read_lane svm-tdp; accelerator) 2>&1) == *"--accel kvm: lane svm-tdp needs hardware that nests"*"--accel tcg emulates it" ]]
	[[ $(accelerators 2>&1 | paste -sd' ') == "tcg "*"lane hw needs hardware that nests"*"exit 3" ]]
	host "" kvm_amd 1
	[[ $(accelerators 2>/dev/null | paste -sd' ') == "tcg exit 3" ]]
	host vmx kvm_amd 1
	[[ $(accelerators 2>/dev/null | paste -sd' ') == "tcg exit 3" ]]
	host svm kvm_amd 1
	KVM_CI_DEVICE=$BATS_TEST_TMPDIR/none
	[[ $(accelerators 2>/dev/null | paste -sd' ') == "tcg exit 3" ]]
	[[ $(read_lane vmx-ept; accelerator) == bochs ]]
}

@test "a lane for hardware, without: exit 3, before anything is built" {
	host "" kvm_amd 0
	run "$RUN" --kernel stack --lane hw
	fails_with 3 "lane hw needs hardware that nests"
	[[ ! -e $KVM_STACK_BUILD/obj ]]
}

@test "expectations: patterns of lanes and tests, the first line counts" {
	part lane
	printf '%s\n' '# comment' '' 'svm-* base t_* skip first reason' 'svm-tdp any t_one fail /some | words/ second' >"$ROOT/ci/expectations"
	expected() {
		expectation "$@"
		echo "${EXPECTED[outcome]},${EXPECTED[words]},${EXPECTED[reason]}"
	}
	[[ $(expected svm-shadow base t_one) == "skip,,first reason" ]]
	[[ $(expected svm-tdp stack t_one) == "fail,some | words,second" ]]
	[[ $(expected svm-shadow stack t_one) == ",," ]]
	[[ $(expected svm-tdp stack other) == ",," ]]
	# Patterns are of lanes, not of files that happen to be there.
	mkdir "$BATS_TEST_TMPDIR/cwd"
	touch "$BATS_TEST_TMPDIR/cwd/svm-x"
	cd "$BATS_TEST_TMPDIR/cwd"
	[[ $(expected svm-shadow base t_one) == "skip,,first reason" ]]
}

@test "an initramfs of the same contents is the same bytes, whenever it is made" {
	part lane bochs newer vm
	read_lane svm-tdp
	mkdir -p "$KVM_STACK_BUILD" "$BATS_TEST_TMPDIR/one" "$BATS_TEST_TMPDIR/two"
	for dir in one two; do
		cp "$ROOT/ci/guest/plan" "$BATS_TEST_TMPDIR/$dir/plan"
		make_initramfs "$BATS_TEST_TMPDIR/$dir" "" "$(command -v busybox)"
		[[ $dir == two ]] || sleep 1.1
	done
	cmp "$BATS_TEST_TMPDIR"/{one,two}/initramfs
}

#!/usr/bin/env bats
# VMs that do not come to their end, and runs that do not: nothing of them is left behind but what tells
# why. With an emulator that is a script, see tests/fake.

load common

setup() {
	fake_bed
	export KVM_STACK_REPORT=$REPORT
	ONE=(--kernel "$IMAGE" --lane svm-tdp --program "$PROGRAM")
	VM=$REPORT/vm/svm-tdp.image-bzImage.1
}

# begun: waits until the VM of a run in the background is at its test; VM_PID is its process.
begun() {
	local i

	for ((i = 0; i < 600; i++)); do
		VM_PID=$(pgrep -f "fake/qemu-system" -P "$1" || true)
		[[ ! $VM_PID ]] || ! grep -qs '^# begin' "$KVM_STACK_BUILD"/run/"$1"/*/verdict || return 0
		sleep 0.1
	done
	echo "no VM"
	return 1
}

# gone PID: whether the process ends. What should take a moment has ten seconds on a busy machine.
gone() {
	local i

	for ((i = 0; i < 100; i++)); do
		[[ -d /proc/$1 && $(awk '{ print $3 }' "/proc/$1/stat" 2>/dev/null) != Z ]] || return 0
		sleep 0.1
	done
	echo "process $1 is still there; it, and what it began:"
	ps -o pid,ppid,stat,wchan:20,args -p "$1" --ppid "$1"
	return 1
}

@test "a run that ends by a signal takes its VM along, and frees its report" {
	scene program hang
	for signal in TERM HUP INT KILL; do
		# INT is ignored by what a script starts in the background, and HUP by what nohup does, unless told otherwise.
		env --default-signal=HUP,INT,TERM "$RUN" "${ONE[@]}" >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
		run_pid=$!
		begun $run_pid
		kill -$signal $run_pid
		gone $run_pid
		gone $VM_PID
		# What it was waiting for, e.g. a sleep, has a moment to end.
		flock -w 10 "$REPORT/.lock" true || { echo "$signal: the report is locked"; false; }
		[[ $signal == KILL || -z $(ls "$KVM_STACK_BUILD/run") ]] || { echo "$signal: $(ls "$KVM_STACK_BUILD/run")"; false; }
	done
	# What was killed can't clean up; the next run does.
	[[ $(ls "$KVM_STACK_BUILD/run") ]]
	rm "$FAKE/program"
	run "$RUN" "${ONE[@]}"
	[[ $status == 0 && -z $(ls "$KVM_STACK_BUILD/run") ]] || { echo "$output"; false; }
}

# vms_of RUN_PID: the emulators of a run, which may be children of its children.
vms_of() {
	local pid

	for pid in $(pgrep -f fake/qemu-system); do
		[[ $(readlink "/proc/$pid/cwd") != "$KVM_STACK_BUILD/run/$1/"* ]] || echo "$pid"
	done
}

@test "a run of several VMs at once that ends by a signal takes all of them along" {
	local vms pid i

	scene program hang
	for signal in TERM KILL; do
		env --default-signal=TERM "$RUN" --kernel "$IMAGE" --lane svm-tdp,svm-shadow --program "$PROGRAM" -j 2 \
			>"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
		run_pid=$!
		for ((i = 0; i < 600; i++)); do
			(($(cat "$KVM_STACK_BUILD/run/$run_pid"/*/verdict 2>/dev/null | grep -c '^# begin') < 2)) || break
			sleep 0.1
		done
		mapfile -t vms < <(vms_of $run_pid)
		((${#vms[@]} == 2)) || { cat "$BATS_TEST_TMPDIR/log"; false; }
		kill -$signal $run_pid
		gone $run_pid
		for pid in "${vms[@]}"; do
			gone "$pid"
		done
		flock -w 10 "$REPORT/.lock" true || { echo "$signal: the report is locked"; false; }
	done
}

@test "of several VMs at once, what those have found that ended is kept when the run is ended" {
	scene program.1 "not ok # exit=1"
	scene program.2 hang
	env --default-signal=TERM "$RUN" --kernel "$IMAGE" --lane svm-tdp,svm-shadow --program "$PROGRAM" -j 2 \
		>"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
	run_pid=$!
	for ((i = 0; i < 600; i++)); do
		! ls "$KVM_STACK_BUILD/run/$run_pid"/part.*/worst >/dev/null 2>&1 || break
		sleep 0.1
	done
	sleep 0.3
	kill -TERM $run_pid
	run wait $run_pid
	gone $run_pid
	[[ $(cut -f4,5 "$REPORT/results.tsv") == $'program\tfailed' ]] || { cat "$REPORT/results.tsv" "$BATS_TEST_TMPDIR/log"; false; }
	[[ -z $(ls "$KVM_STACK_BUILD/run") ]]
}

@test "of several VMs at once, a process that is killed ends the run: exit 3" {
	scene program hang
	"$RUN" --kernel "$IMAGE" --lane svm-tdp,svm-shadow --program "$PROGRAM" -j 2 >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
	run_pid=$!
	for ((i = 0; i < 600; i++)); do
		mapfile -t vms < <(vms_of $run_pid)
		((${#vms[@]} < 2)) || break
		sleep 0.1
	done
	kill -KILL "$(awk '{ print $4 }' "/proc/${vms[0]}/stat")"
	code=0
	wait $run_pid || code=$?
	[[ $code == 3 && $(tail -n 1 "$BATS_TEST_TMPDIR/log") == *"a process that ran a VM was killed (exit 137)"* ]] ||
		{ cat "$BATS_TEST_TMPDIR/log"; echo "exit $code"; false; }
	gone "${vms[0]}"
	gone "${vms[1]}"
}

# ends_build PROGRAM: a run that is ended while PROGRAM builds.
ends_build() {
	printf '#!/bin/sh\necho $$ >%s/building\nexec sleep 1000\n' "$FAKE" >"$PROJECT/ci/$1"
	for signal in TERM KILL; do
		rm -f "$FAKE/building"
		"$RUN" --kernel stack --lane svm-tdp --test fake >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
		run_pid=$!
		for ((i = 0; i < 600; i++)); do
			[[ ! -s $FAKE/building ]] || break
			sleep 0.1
		done
		kill -$signal $run_pid
		gone $run_pid
		[[ ! -e $REPORT/.lock ]] || flock -n "$REPORT/.lock" true
		gone "$(<"$FAKE/building")"
	done
}

@test "a run that ends while it builds selftests or a kernel ends the build, and frees its report" {
	fake_trees
	cp "$PROJECT/ci/selftests" "$BATS_TEST_TMPDIR/stub"
	ends_build selftests
	cp "$BATS_TEST_TMPDIR/stub" "$PROJECT/ci/selftests"
	ends_build kernel
}

@test "a VM that goes silent: exit 4, its folder, its registers, and a command that boots it again" {
	scene program hang
	KVM_CI_SILENCE=1 run "$RUN" "${ONE[@]}"
	[[ $status == 4 && $(outcome program) == lost && $output == *"VM lost (silent) after: # begin program (see $VM)"* ]] ||
		{ echo "$output"; false; }
	grep -q 'CPU#0' "$VM/registers"
	run pgrep -f "$BATS_TEST_TMPDIR"
	[[ -z $output ]]
	# Again as it stands, from anywhere, and it passes.
	rm "$FAKE/program"
	(cd / && "$VM/command")
	grep -q '^ok 1 program' "$VM/again/verdict"
	refute grep -q '^ok' "$VM/verdict"
}

@test "a VM that passes leaves no initramfs, and its command says so" {
	run "$RUN" "${ONE[@]}"
	[[ $status == 0 && ! -e $VM/initramfs ]]
	run "$VM/command"
	fails_with 3 "kept only if a VM was lost"
}

@test "a VM that goes away, one that panics, one that never speaks: told apart, each with its folder" {
	scene program exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 4 && $output == *"VM lost (gone)"*"$VM"* ]] || { echo "$output"; false; }
	scene program '> [    2.0] Kernel panic - not syncing: x' exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 5 && $output == *"Kernel panic - not syncing: x ($VM/console)"* ]] || { echo "$output"; false; }
	scene silent exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 5 && $output == *"booting it again, once"*"never came up"*"$REPORT/vm/svm-tdp.image-bzImage.anew1"* ]] ||
		{ echo "$output"; false; }
	rm "$FAKE"/{silent,program,boots}
	scene silent.1 exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 0 && $(outcome program) == passed ]] || { echo "$output"; false; }
	grep -q "booted again" "$REPORT/summary.md"
}

@test "two runs do not share a report" {
	mkdir -p "$REPORT"
	exec 7>"$REPORT/.lock"
	flock 7
	run "$RUN" "${ONE[@]}"
	fails_with 3 "another run is writing"
}

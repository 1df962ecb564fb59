# shellcheck shell=bash
# One VM: its initramfs, its command line, and watching it until it is done or lost.
# Sourced by ci/run, after scripts/common.sh, ci/lib/lane.sh, ci/lib/bochs.sh and ci/lib/newer.sh.

# A time limit is there to end a test that hangs, not to measure the host. So a test may take a
# multiple of the seconds in its set, which a quiet machine needs, and a VM that hangs is found by
# its silence: init beats every 5 s.
PATIENCE=${KVM_CI_PATIENCE:-3}
[[ $PATIENCE =~ ^[1-9][0-9]{0,2}$ ]] || die $E_USAGE "KVM_CI_PATIENCE takes a number from 1 to 999, not '$PATIENCE'"
SILENCE=${KVM_CI_SILENCE:-$((30 * PATIENCE))}
# Where busybox comes from for an architecture that this machine is not: the suite, and Debian's name
# of the architecture.
readonly -A BUSYBOX=(["arm64"]="bookworm arm64" ["riscv"]="trixie riscv64")

APPEND=''	# what the user adds to each kernel's command line
QEMU_ARGS=()	# what the user adds to QEMU's
ACCEL=''	# the accelerator that the user insists on
declare -gA VERSIONS=()	# lane -> the version of its emulator, which is asked once
GDB=''	# the socket at which VMs wait for a debugger, if they are to

# nests FLAG MODULE: whether the host's CPU has FLAG, and MODULE hands it on to guests. A /dev/kvm
# without the flag is a paravirtual host's, and of no use. The variables are for the tests.
nests() {
	[[ -w ${KVM_CI_DEVICE:-/dev/kvm} ]] && grep -qm1 -E "^flags.*\b$1\b" "${KVM_CI_CPUINFO:-/proc/cpuinfo}" &&
		grep -qE '^[Y1]' "${KVM_CI_MODULES:-/sys/module}/$2/parameters/nested" 2>/dev/null
}

# hardware: whether the host's nests. Any will do for an x86 lane: what a lane turns off, it turns off
# for AMD and for Intel.
hardware() {
	[[ ${LANE[cpu]} == *svm* || ${LANE[cpu]} == host ]] && { nests svm kvm_amd || nests vmx kvm_intel; }
}

# accelerator: "kvm" if the host can run this lane's guests with nested hardware virtualization, else
# "tcg"; what the user insists on, or exit 3. "bochs" for a lane of that emulator; hardware has no "icount=".
accelerator() {
	local needed="hardware that nests: svm or vmx in /proc/cpuinfo, /dev/kvm, and kvm_amd or kvm_intel with nested=1"

	if is_bochs; then
		echo bochs
	elif [[ ${LANE[icount]-} ]]; then
		echo tcg
	elif [[ ${LANE[cpu]} == host ]]; then
		[[ $ACCEL != tcg ]] || die $E_USAGE "lane ${LANE[name]} is for hardware, not for --accel tcg"
		hardware || die $E_ENV "lane ${LANE[name]} needs $needed"
		echo kvm
	elif [[ $ACCEL == kvm ]]; then
		hardware || die $E_ENV "--accel kvm: lane ${LANE[name]} needs $needed; --accel tcg emulates it"
		echo kvm
	elif [[ $ACCEL != tcg ]] && hardware; then
		echo kvm
	else
		echo tcg
	fi
}

# races: whether the lane's emulator runs CPUs on threads of their own, as its errata take.
races() {
	[[ $(accelerator) == tcg && -z ${LANE[icount]-} && ${LANE[smp]} != 1 ]]
}

# build_program NAME: ci/guest/NAME.c, static, for the lane's architecture; prints the path.
build_program() {
	compiled "$ROOT/ci/guest/$1.c" "$(cross_prefix "${LANE[arch]}")gcc" -static
}

# lane_busybox: a static busybox of the lane's architecture; prints the path.
lane_busybox() {
	local arch=${LANE[arch]}
	local debs=$CACHE/deb/busybox.$arch log=$BUILD/busybox.log suite name

	if [[ -z $(cross_prefix "$arch") ]]; then
		command -v busybox
		return
	fi
	if [[ ! -f $debs/bin/busybox ]]; then
		read -r suite name <<<"${BUSYBOX[$arch]}"
		say "downloading busybox-static:$name"
		rm -rf "$debs" "$debs.new" && mkdir -p "$debs.new"
		# Newer packages have it in /usr/bin.
		(cd "$debs.new" && private_apt "$suite" apt-get -o APT::Architecture="$name" update &&
			private_apt "$suite" apt-get -o APT::Architecture="$name" download busybox-static &&
			dpkg-deb -x busybox-static_*.deb . &&
			{ [[ -d bin ]] || ln -s usr/bin bin; }) >"$log" 2>&1 ||
			die $E_ENV "cannot download busybox-static:$name: $(apt_error "$log")"
		mv "$debs.new" "$debs"
	fi
	printf '%s\n' "$debs/bin/busybox"
}

# busybox_links DIR: makes it the applets that there are in a VM; once for all runs, which may be two at a time.
busybox_links() {
	local p

	[[ -d $1 ]] || mkdir -p "$1"
	for p in sh cat ls mount poweroff dmesg ps grep uname echo; do
		[[ -L $1/$p ]] || ln -s busybox "$1/$p" 2>/dev/null || [[ -L $1/$p ]] || die $E_ENV "cannot write $1: disk full?"
	done
}

# lane_emulator: fills EMULATOR, what starts the lane's emulator: where this machine's is too old
# ("suite=" and "package=" in the lane), that suite's.
lane_emulator() {
	local root lib

	EMULATOR=("${LANE[emulator]}")
	[[ ${LANE[suite]-} ]] || return 0
	root=$(unpack_package "${LANE[suite]}" "${LANE[package]-}") || exit $?
	lib=$root/usr/lib/$(gcc -print-multiarch)
	EMULATOR=(env "QEMU_MODULE_DIR=$lib/qemu" "LTDL_LIBRARY_PATH=$lib/bochs/plugins"
		"BXSHARE=$root/usr/share/bochs" "$lib"/ld-linux*.so.* --library-path "$lib"
		"$root/usr/bin/${LANE[emulator]}")
	is_bochs || EMULATOR+=(-L "$root/usr/share/qemu")
}

# emulator_version: in one line.
emulator_version() {
	if [[ ${VERSIONS["${LANE[name]}"]-} ]]; then
		echo "${VERSIONS["${LANE[name]}"]}"
		return
	fi
	lane_emulator
	if is_bochs; then
		"${EMULATOR[@]}" --help 2>&1 | grep -m1 -o 'Bochs x86 Emulator [0-9.]*'
	else
		"${EMULATOR[@]}" --version | head -n 1
	fi
}

# make_vmm DIR IMAGE: what a lane with "vmm=" has beside its tests, as DIR/files: the VMM in
# /usr/bin, the libraries and the firmware it loads, and a guest for it, with IMAGE as /guest/kernel
# and /guest/initramfs: that of the lane's "guest=", or one with ci/guest/programs/migrate_guest.c
# as its PID 1. With kvm-unit-tests, those in /kut.
make_vmm() {
	local files=$1/files guest=$1/guest vmm lib rom dir

	vmm=$(command -v "${LANE[vmm]}")
	mkdir -p "$files"/{guest,usr/bin,usr/share/qemu} "$guest"
	cp "$vmm" "$files/usr/bin/"
	# A static one has none.
	{ ldd "$vmm" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r lib; do
		install -D "$lib" "$files$lib"
	done
	for rom in bios-256k.bin kvmvapic.bin linuxboot_dma.bin multiboot_dma.bin; do
		for dir in $("$vmm" -L help); do
			[[ ! -f $dir/$rom ]] || cp "$dir/$rom" "$files/usr/share/qemu/"
		done
	done
	if [[ $KUT ]]; then
		mkdir -p "$files/kut"
		cp "$KUT"/x86/unittests.cfg "$KUT"/x86/*.flat "$files/kut/"
	fi
	cp "$2" "$files/guest/kernel"
	if [[ ${LANE[guest]-} ]]; then
		# Of its own: it reads another lane.
		(make_guest_lane "$guest" "$files/guest") || exit $?
		rm -rf "$guest"
	else
		cp "$(build_program programs/migrate_guest)" "$guest/init"
		make_cpio "$guest" "$files/guest/initramfs"
	fi
}

# make_guest_lane DIR OUT: the VM of the lane's "guest=", as it would be with KVM, in OUT: its initramfs,
# and "command", which boots it. DIR is for what is under way.
make_guest_lane() {
	local selected programs bin=${SELFTESTS["${LANE[arch]}"]}

	read_lane "${LANE[guest]}"
	selected=$(select_tests "${LANE[tests]}" '') || exit $?
	write_plan "$1/plan" <<<"$selected" >/dev/null
	mapfile -t programs < <(awk '{ print $4 }' <<<"$selected" | sort -u)
	make_initramfs "$1" "$bin" "${programs[@]}"
	cp "$1/initramfs" "$2/initramfs"
	vm_command /guest/kernel kvm
	printf 'exec %s "$@"\n' "$(printf '%q ' "${COMMAND[@]}")" >"$2/command"
}

# make_cpio DIR FILE: the same contents, the same bytes.
make_cpio() {
	find "$1" -exec touch -h -d @0 {} +
	(cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 --reproducible) >"$2" ||
		die $E_ENV "cannot write $2: disk full?"
	rm -rf "$1"
}

# make_initramfs DIR BIN PROGRAM...: DIR/plan, DIR/files if there are any, and the programs, from BIN,
# from ci/guest/programs or by path, as DIR/initramfs.
make_initramfs() {
	local dir=$1 bin=$2 p root=$1/root
	shift 2

	rm -rf "$root"
	[[ ! -d $dir/files ]] || mv "$dir/files" "$root"
	mkdir -p "$root"/{dev,proc,sys,tmp,bin,tests}
	cp "$(build_program init)" "$root/init"
	cp "$dir/plan" "$root/plan"
	cp "$(lane_busybox)" "$root/bin/busybox"
	# system() of the selftests' stack dump wants a shell; --shell wants its applets.
	busybox_links "$BUILD/bin/applets"
	cp -P "$BUILD"/bin/applets/* "$root/bin/"
	for p; do
		[[ $p != kselftest ]] || cp -r "$bin/kselftest" "$root/"
		if [[ $p == /* || -f $ROOT/ci/guest/programs/$p ]]; then
			cp "$(cd "$ROOT/ci/guest/programs" && realpath "$p")" "$root/tests/"
		elif [[ -f $ROOT/ci/guest/programs/$p.c ]]; then
			cp "$(build_program "programs/$p")" "$root/tests/$p"
		else
			[[ -f $bin/$p ]] || die $E_STACK "the selftests hold no program '$p'"
			[[ $p != */* ]] || mkdir -p "$root/tests/${p%/*}"
			cp "$bin/$p" "$root/tests/$p"
		fi
	done
	make_cpio "$root" "$dir/initramfs"
}

# kernel_cmdline [WORDS]: tsc=reliable (x86): the watchdog compares clocks whose emulation the host's
# scheduler sets apart. norecord-cmd: who enables a trace event doesn't patch the scheduler, see
# "Patched code" in ci/README.md.
kernel_cmdline() {
	printf 'console=%s oops=panic panic=-1 hung_task_panic=1 nokaslr trace_options=norecord-cmd %s loglevel=7 %s %s%s' "${LANE[console]}" \
		"$([[ ${LANE[arch]} == x86_64 ]] && echo tsc=reliable)" "${LANE[append]}" "${1-}" "${APPEND:+ $APPEND}"
}

# vm_command IMAGE ACCEL [WORDS]: fills COMMAND, which runs the lane's machine, less its first serial
# port, in the folder that has the VM's files: no path of the user's gets into the emulator's options.
# WORDS go to the kernel.
vm_command() {
	lane_emulator
	if is_bochs; then
		bochs_command
	else
		qemu_command "$@"
	fi
}

# max_ports: QEMU polls two descriptors for each port that there could be.
qemu_command() {
	local cpu=${LANE[cpu]}

	[[ $2 == kvm ]] && cpu=host
	COMMAND=("${EMULATOR[@]}" -machine "${LANE[machine]}" -accel "$2" -cpu "$cpu"
		${LANE[icount]+-icount "${LANE[icount]}"}
		-smp "${LANE[smp]}" -m "${LANE[memory]}" -nodefaults -no-user-config -no-reboot
		-d cpu_reset -D cpu_reset -display none -kernel "$1" -initrd initramfs
		-append "$(kernel_cmdline "${3-}")"
		-device "virtio-serial-pci,max_ports=2" -chardev "file,id=verdict,path=verdict"
		-device "virtserialport,chardev=verdict,name=kvm-ci.verdict" ${GDB:+-S -gdb "unix:$GDB,server=on,wait=off"} ${QEMU_ARGS[@]+"${QEMU_ARGS[@]}"})
}

# start_vm DIR: runs COMMAND in DIR; VM_PID is its process, which ends when this one does, and holds
# nothing that another run could wait for.
start_vm() {
	(cd "$1" && exec setpriv --pdeathsig KILL -- "${COMMAND[@]}") <&0 8>&- &
	VM_PID=$!
}

# invite_debugger IMAGE: says what to type, if the VM waits for one.
invite_debugger() {
	local gdb=gdb vmlinux=${1%/*}/vmlinux

	[[ $GDB ]] || return 0
	[[ -z $(cross_prefix "${LANE[arch]}") ]] || gdb="gdb-multiarch"
	[[ -f $vmlinux ]] || vmlinux=VMLINUX
	say "${LANE[name]}: waiting for: $gdb $vmlinux -ex 'target remote $GDB'"
}

# show_registers DIR: ends the VM, after having asked QEMU's monitor what all of its CPUs are at:
# DIR/registers. A QEMU that hangs itself does not keep us.
show_registers() {
	local cat i

	[[ -p $1/monitor.in ]] || return 0
	# Open before QEMU is asked, so that nothing is lost if it has quit before cat begins.
	# shellcheck disable=SC2094 # pipes
	exec 4<>"$1/monitor.in" 5<>"$1/monitor.out" 6<"$1/monitor.out"
	timeout 20 cat <&6 >"$1/registers.raw" 4>&- 5>&- 6<&- 8>&- &
	cat=$!
	printf 'info registers -a\nquit\n' >&4
	for ((i = 0; i < 100; i++)); do
		kill -0 "$VM_PID" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$VM_PID" 2>/dev/null || true
	exec 4>&- 5>&- 6<&-
	wait $cat || true
	# Without what the monitor's line editor echoes.
	sed -e 's/\r$//' -e '/\x1b/d' "$1/registers.raw" >"$1/registers"
	rm "$1/registers.raw"
}

# write_command DIR: DIR/command, which boots the VM of DIR again, beside what is left of the first time.
write_command() {
	cat >"$1/command" <<-EOF
		#!/bin/bash
		# Boots this VM again as ci/run did, in a new folder "again" next to this file.
		set -e
		cd "\$(dirname "\$0")"
		[[ -e initramfs || -e cd ]] || { echo "what it boots is kept only if a VM was lost" >&2; exit 3; }
		mkdir again
		ln -st again ../initramfs ../cd ../debugger
		cd again
		exec $(printf '%q ' "${COMMAND[@]}")
	EOF
	chmod +x "$1/command"
}

# boot DIR IMAGE ACCEL SECONDS: runs the VM of DIR/initramfs for at most SECONDS. Leaves
# DIR/verdict, DIR/console, DIR/cpu_reset, DIR/emulator.log and DIR/command. END is how it ended:
#   done     init reached the end of the plan
#   bail     init could not begin (its words are in DIR/verdict)
#   panic    the kernel panicked
#   silent   no word for $SILENCE seconds, killed; DIR/registers
#   overtime past SECONDS, killed; DIR/registers
#   triple-fault  the lane's own kernel triple faulted; DIR/cpu_reset has the registers
#   gone     the emulator ended before init did
#   refused  the emulator did not start
boot() {
	local dir=$1 last=$SECONDS begin=$SECONDS nap=0.02 verdict never

	END=
	vm_command "$2" "$3"
	rm -f "$dir"/{verdict,console,monitor.in,monitor.out}
	: >"$dir/verdict"
	: >"$dir/console"
	if is_bochs; then
		bochs_media "$dir" "$2"
		COMMAND+=("com1: enabled=1, mode=file, dev=console")
		write_command "$dir"
	else
		COMMAND+=(-serial file:console)
		write_command "$dir"
		mkfifo "$dir"/monitor.{in,out}
		COMMAND+=(-chardev "pipe,id=monitor,path=monitor" -mon "chardev=monitor,mode=readline")
	fi
	invite_debugger "$2"
	start_vm "$dir" >"$dir/emulator.log" 2>&1 </dev/null

	# No process is started to watch it: the VM has the CPUs.
	total=$(grep -c '^test ' "$dir/plan" || true)
	PARTIAL=
	exec {verdict}<"$dir/verdict" {never}<> <(:)
	while kill -0 "$VM_PID" 2>/dev/null; do
		# Of a run that was killed, nothing goes on, see run_beside().
		[[ -e /proc/$$/exe ]] || { kill -KILL "$VM_PID" 2>/dev/null; exit $E_ENV; }
		# What ends at once is not waited for.
		read -rt $nap -u $never || true
		((SECONDS - begin < 2)) || nap=0.2
		! progress "$verdict" || last=$SECONDS
		if ((SECONDS - last > SILENCE)); then
			END=silent
		elif ((SECONDS - begin > $4)); then
			END=overtime
		fi
		if [[ $END ]]; then
			show_registers "$dir"
			kill -KILL "$VM_PID" 2>/dev/null || true
			break
		fi
	done
	wait "$VM_PID" 2>/dev/null || true
	VM_PID=
	progress "$verdict" || true
	exec {verdict}<&- {never}<&-

	if grep -q '^# done' "$dir/verdict"; then
		END='done'
	elif grep -q '^Bail out!' "$dir/verdict"; then
		END=bail
	elif grep -q 'Kernel panic' "$dir/console"; then
		END=panic
	elif [[ $END ]]; then
		:
	elif grep -q 'Triple fault' "$dir/cpu_reset"; then
		END=triple-fault
	elif [[ ! -s $dir/console ]]; then
		END=refused
	else
		END=gone
	fi
}

# progress FD: tells, on stderr, of the results in what has come from the verdict since the last time, and of
# how many there are to be; fails if nothing has come. PARTIAL is the beginning of a line that is still to come.
progress() {
	local line='' came=''

	while came+=$line; IFS= read -r line <&"$1" || { PARTIAL+=$line; false; }; do
		line=$PARTIAL$line PARTIAL=
		if [[ $line =~ ^((not )?ok [0-9]+)(' '.*)$ ]]; then
			say "$PROGRESS: ${BASH_REMATCH[1]}/$total${BASH_REMATCH[3]}"
		elif [[ $line =~ ^'# alive '.*[05]0$ || $line == 'Bail out'* ]]; then
			say "$PROGRESS: ${line#\# }"
		fi
	done
	[[ $came$line ]]
}

# blame_host DIR: a VM that this machine has no room for says nothing about the kernel.
blame_host() {
	local words

	! full "$1" || die $E_ENV "disk full: nothing can be written to $BUILD; make room, then again"
	words=$(no_room "$1/emulator.log")
	[[ -z $words ]] || die $E_ENV "this machine has no room for a VM of ${LANE[memory]}: $words"
}

readonly KEPT=(verdict console cpu_reset emulator.log command)	# what the cache keeps of a VM

# cache_vm DIR CACHED: all of it or nothing. Another run, or lane, may have the same to keep.
cache_vm() {
	local new=$2.new.$BASHPID

	mkdir -p "$new"
	if cp "${KEPT[@]/#/$1/}" "$new/"; then
		whole_vm "$2" || rm -rf "$2"
		mv -T "$new" "$2" 2>/dev/null || rm -rf "$new"
	else
		say "the results of this VM are not kept for later runs: is $CACHE full?"
		rm -rf "$new"
	fi
}

# whole_vm CACHED: whether all of it is there, and of a VM that came to its end.
whole_vm() {
	local file

	for file in "${KEPT[@]}"; do
		[[ -f $1/$file ]] || return 1
	done
	grep -q '^# done' "$1/verdict"
}

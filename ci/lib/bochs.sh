# shellcheck shell=bash
# A lane's machine under Bochs, which emulates what QEMU doesn't: VMX, EPT and PML.
# Sourced by ci/run, after scripts/common.sh and ci/lib/lane.sh.

# is_bochs: whether the lane's emulator is Bochs.
is_bochs() {
	[[ ${LANE[emulator]} == bochs* ]]
}

# bochs_command: fills COMMAND. What is not in the manual:
# - Debian builds Bochs with its debugger, which waits for a "c" (-rc).
# - It wants a display. "rfb" needs no X, and with timeout=0 nobody has to look at it.
# - ips says how many instructions make a second of the guest; all CPUs take turns on one thread. With
#   this value, a second of the guest takes about one or two.
# - A panic of Bochs, which is fatal, is how it ends: by ACPI's power off or by a triple fault.
bochs_command() {
	local share=/usr/share/bochs
	[[ ! ${LANE[suite]-} ]] || share=$CACHE/deb/${LANE[package]}.${LANE[suite]}/usr/share/bochs

	COMMAND=("${EMULATOR[@]}" -q -f /dev/null -rc debugger
		"cpu: model=${LANE[cpu]}, count=${LANE[smp]}, ips=50000000, reset_on_triple_fault=0"
		"megs: $((${LANE[memory]%G} * 1024))"
		"romimage: file=$share/BIOS-bochs-latest" "vgaromimage: file=$share/VGABIOS-lgpl-latest"
		"ata0-master: type=cdrom, path=cd, status=inserted" "boot: cdrom"
		"display_library: rfb, options=\"timeout=0\"" "clock: sync=none, time0=1000000000"
		"panic: action=fatal" "info: action=ignore" "log: -"
		"com2: enabled=1, mode=file, dev=verdict")
}

# bochs_media DIR IMAGE: makes the CD to boot from, as Bochs starts no kernel by itself. There is no
# -no-reboot, either: a kernel that panics stays, and is found silent.
bochs_media() {
	local cd=$1/cd.files

	echo c >"$1/debugger"
	: >"$1/cpu_reset"
	mkdir -p "$cd/boot/grub"
	cp "$2" "$cd/boot/kernel"
	cp "$1/initramfs" "$cd/boot/initramfs"
	printf 'linux /boot/kernel %s panic=0 verdict=ttyS1\ninitrd /boot/initramfs\nboot\n' "$(kernel_cmdline)" \
		>"$cd/boot/grub/grub.cfg"
	grub-mkrescue -d /usr/lib/grub/i386-pc -o "$1/cd" "$cd" >"$1/cd.log" 2>&1 ||
		die $E_ENV "grub-mkrescue: $(grep -m1 -i error "$1/cd.log" || tail -n 1 "$1/cd.log")"
	rm -r "$cd"
}

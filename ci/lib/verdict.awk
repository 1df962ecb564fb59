# Reads a plan and then a verdict file; prints a line a test of the plan, tab separated:
#   NAME OUTCOME MILLISECONDS DETAIL
# OUTCOME: passed, failed, skipped, timeout, erratum, lost (begun and never ended, or never
# begun). Writes each test's output to LOGS/NAME.log, and its "key=value" lines, as
# NAME <tab> KEY <tab> VALUE, to VALUES.
# Variables: LOGS, VALUES; RACES, if the emulator's CPUs are threads of their own.

# Whether a traced shutdown of a vCPU is the erratum of QEMU that ci/README.md describes: on CPU 0, and
# the guest's RIP inside the text of the lane's own kernel. The kernel traces shutdowns, see ci/guest/plan.
# A guest that handles the page fault which follows shuts down in its handler. The fault that is then
# still to be delivered tells: a fetch through page table entries with reserved bits set, while the page
# tables of these guests, which do not change, have none.
# Prints what the sign is, or nothing.
function sign(line,	rip) {
	if (!RACES || line !~ / \[000\] /)
		return ""
	rip = line
	sub(/.* rip /, "", rip)
	sub(/[^0-9a-fx].*/, "", rip)
	if (stext != "" && length(rip) == length(stext) && rip >= stext && rip < etext)
		return "guest RIP " rip " is inside the kernel of the lane"
	if (line ~ / intr_info 0x80000b0e error_code 0x0000001[89a-f] /)
		return "guest RIP " rip ", after a fetch through reserved bits"
	return ""
}

FILENAME == ARGV[1] {
	if ($1 == "test")
		order[++planned] = $2
	next
}

/^# kernel_stext=/ { stext = substr($0, 16); next }
/^# kernel_etext=/ { etext = substr($0, 16); next }

/^# begin / {
	name = $3
	begun[name] = 1
	log_file = LOGS "/" name ".log"
	printf "" > log_file
	next
}

/^# alive / { next }
/^# time_ms=/ && name != "" { ms[name] = substr($0, 11); next }

/^(ok|not ok) [0-9]+ / && name != "" {
	n = ($1 == "ok") ? 3 : 4
	detail = ""
	if (match($0, / # .*/))
		detail = substr($0, RSTART + 3)
	if ($1 == "ok")
		outcome[name] = (detail ~ /^SKIP/) ? "skipped" : "passed"
	else if (signs[name] != "" && !elsewhere[name])
		outcome[name] = "erratum"
	else
		outcome[name] = (detail ~ /^TIMEOUT/) ? "timeout" : "failed"
	sub(/^SKIP[ -]*/, "", detail)
	if (outcome[name] == "failed" && why[name] != "")
		detail = detail ": " why[name]
	if (outcome[name] == "erratum")
		detail = signs[name]
	what[name] = detail
	close(log_file)
	name = ""
	next
}

name != "" && /^# trace: / {
	print substr($0, 3) > log_file
	if (/ kvm_exit: .* reason shutdown rip 0x/) {
		if (sign($0) == "")
			elsewhere[name] = 1
		else if (signs[name] == "")
			signs[name] = sign($0)
	}
	next
}

name != "" && /^#\| / {
	line = substr($0, 4)
	print line > log_file
	if (line ~ /^[a-z][a-z0-9_.]*=[^ ]+( [a-z][a-z0-9_.]*=[^ ]+)*$/) {
		# One "key=value" a line is a result; a line of several labels the results: the
		# last pair is the result, the ones before it are part of its key.
		count = split(line, pair, " ")
		label = ""
		for (i = 1; i < count; i++)
			label = label pair[i] " "
		split(pair[count], kv, "=")
		print name "\t" label kv[1] "\t" kv[2] > VALUES
	}
	# The first subtest that failed.
	if (line ~ /^ +not ok [0-9]+ / && why[name] == "") {
		why[name] = line
		sub(/^ +/, "", why[name])
	}
	# The sentence of a failed TEST_ASSERT: the last indented line.
	if (line ~ /^==== Test Assertion Failure/)
		asserted[name] = 1
	else if (asserted[name] && line ~ /^  [^ ]/ && line !~ /^  (pid=|\(stack)/ && line !~ /^  [A-Za-z0-9_\/.]+\.[ch]:[0-9]+: /)
		why[name] = substr(line, 3)
}

END {
	for (i = 1; i <= planned; i++) {
		name = order[i]
		if (!(name in outcome)) {
			outcome[name] = "lost"
			what[name] = (name in begun) ? "the VM was lost while it ran" : "the VM was lost before it ran"
		}
		printf "%s\t%s\t%d\t%s\n", name, outcome[name], ms[name], what[name]
	}
}

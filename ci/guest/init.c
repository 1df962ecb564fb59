// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of a lane: mounts, runs the tests of /plan one after another, and
 * reports over a port of its own, so that nothing the kernel prints on the
 * console can be mistaken for a verdict: a virtio-serial port, or the tty that
 * "verdict=NAME" on the kernel's command line names, where there is no virtio.
 *
 * /plan, one directive a line, words separated by blanks; "\" and three octal
 * digits stand for a byte, and "\000" alone for an empty word:
 *   set PATH VALUE...               write VALUE to PATH; a failure ends the run, unless
 *                                   there is no PATH, which is noted
 *   swap DEVICE                     swap to DEVICE, all of it; without one, that is noted
 *   cpus FIRST                      tests run on the CPUs from number FIRST on, if there are
 *                                   any, unless they choose others themselves
 *   user                            tests run as nobody, who has /dev/kvm
 *   vm                              create a VM, and keep it: tests' VMs are never the only one
 *   test NAME SECONDS PROGRAM ARG.. run PROGRAM, at most SECONDS
 *   shell                           a shell on the console, no tests
 *
 * Output on the port is KTAP version 1, a result line a test:
 *   ok N NAME                       exit 0
 *   ok N NAME # SKIP why            exit 4 (KSFT_SKIP), why = the test's words
 *   not ok N NAME # exit=CODE       any other exit
 *   not ok N NAME # signal=NR       killed by a signal
 *   not ok N NAME # TIMEOUT SECONDS killed by us
 * before it the test's output, each line behind "#| ", and "# time_ms=N".
 * "# alive NAME SECONDS" every five seconds tells a slow test from a dead VM.
 * "Bail out! why" and no further lines if the lane itself is unusable.  The
 * last line of a run that came to its end is "# done".
 *
 * The console gets "ci: begin NAME" and "ci: end NAME" through /dev/kmsg, so
 * that a splat can be laid at the door of the test it came with, and, before a
 * test is killed that takes too long, what CPUs and blocked tasks are at.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/kvm.h>

/* What /plan has the kernel trace; a few lines of it say what happened to a test. */
#define TRACE		"/sys/kernel/tracing/trace"
#define MAX_TRACE	20

#define PORT_NAME	"kvm-ci.verdict"
#define MAX_WORDS	1024
#define NOBODY		65534
#define MAX_LINE	1024
#define KSFT_SKIP	4
/* Enough for any test's own words, too little for a runaway test to drown the report. */
#define MAX_OUTPUT	(512 * 1024)

static FILE *port;

/* What a test printed, as far as its result line needs it. */
struct output {
	char line[MAX_LINE];
	size_t len;
	size_t total;
	char skip[256];
};

static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(port, fmt, ap);
	va_end(ap);
	fputc('\n', port);
	fflush(port);
}

static void __attribute__((format(printf, 1, 2))) kmsg(const char *fmt, ...)
{
	char buf[256];
	va_list ap;
	int fd, n;

	va_start(ap, fmt);
	n = vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);

	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, buf, n) != n)
		perror("/dev/kmsg");
	close(fd);
}

static void __attribute__((noreturn)) power_off(void)
{
	sync();
	if (port)
		tcdrain(fileno(port));
	reboot(RB_POWER_OFF);
	/* No ACPI: "-no-reboot" turns this into the end of the VM as well. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void __attribute__((noreturn, format(printf, 1, 2))) bail_out(const char *fmt, ...)
{
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);

	kmsg("ci: bail out: %s", why);
	if (port)
		say("Bail out! %s", why);
	power_off();
}

static void mount_or_bail(const char *type, const char *dir, const char *data)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, data) && errno != EBUSY)
		bail_out("cannot mount %s on %s: %s", type, dir, strerror(errno));
}

/* Mounts a kernel may well lack: a user's own bzImage need not have them. */
static void mount_if_possible(const char *type, const char *dir)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, NULL) && errno != EBUSY)
		kmsg("ci: no %s on %s: %s", type, dir, strerror(errno));
}

/* What the CPUs are at, and what is blocked: on the console. */
static void show_state(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "l", 1) != 1 || write(fd, "w", 1) != 1)
		perror("/proc/sysrq-trigger");
	close(fd);
}

static bool first_line(const char *path, char *buf, int size)
{
	FILE *f = fopen(path, "re");
	bool ok = false;

	if (f) {
		ok = fgets(buf, size, f);
		buf[strcspn(buf, "\n")] = '\0';
		fclose(f);
	}
	return ok;
}

static FILE *open_tty(const char *name)
{
	struct termios raw;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/dev/%s", name);
	f = fopen(path, "we");
	if (f && !tcgetattr(fileno(f), &raw)) {
		cfmakeraw(&raw);
		cfsetspeed(&raw, B115200);
		tcsetattr(fileno(f), TCSANOW, &raw);
	}
	return f;
}

static FILE *open_virtio_port(void)
{
	char path[512], name[64];
	struct dirent *de;
	FILE *f = NULL;
	DIR *dir;

	dir = opendir("/sys/class/virtio-ports");
	while (dir && !f && (de = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", de->d_name);
		if (!first_line(path, name, sizeof(name)) || strcmp(name, PORT_NAME))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", de->d_name);
		f = fopen(path, "we");
	}
	if (dir)
		closedir(dir);
	return f;
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void report_kernel(void)
{
	char line[256] = "";
	struct utsname u;
	FILE *f;

	uname(&u);
	say("# kernel=%s %s", u.release, u.version);
	say("# cpus=%ld", sysconf(_SC_NPROCESSORS_ONLN));
	if (first_line("/proc/cmdline", line, sizeof(line)))
		say("# cmdline=%s", line);

	/* The emulator's erratum is known by a guest RIP inside these bounds. */
	f = fopen("/proc/kallsyms", "re");
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strcmp(line + 16, " T _stext") || !strcmp(line + 16, " T _etext"))
			say("# kernel%s=0x%.16s", line + 19, line);
	}
	if (f)
		fclose(f);
}

/* "1..0 # SKIP why" of kselftest and "why, skipping test" of print_skip(). */
static void note_skip(struct output *out)
{
	const char *why = strstr(out->line, "# SKIP");
	const char *tail = strstr(out->line, ", skipping test");

	if (why)
		snprintf(out->skip, sizeof(out->skip), "%.200s", why + strlen("# SKIP"));
	else if (tail)
		snprintf(out->skip, sizeof(out->skip), "%.*s",
			 (int)(tail - out->line), out->line);
}

static void end_line(struct output *out)
{
	out->line[out->len] = '\0';
	note_skip(out);
	if (out->total < MAX_OUTPUT)
		say("#| %s", out->line);
	else if (out->total - out->len < MAX_OUTPUT)
		say("#| [output cut at %d bytes]", MAX_OUTPUT);
	out->len = 0;
}

static void take_output(struct output *out, const char *buf, ssize_t n)
{
	for (ssize_t i = 0; i < n; i++) {
		out->total++;
		if (buf[i] == '\n' || out->len == MAX_LINE - 1)
			end_line(out);
		if (buf[i] != '\n' && buf[i] != '\r')
			out->line[out->len++] = buf[i];
	}
}

static bool tests_are_nobodys;

static pid_t start(char **argv, int fd)
{
	pid_t pid = fork();

	if (pid)
		return pid;

	setsid();
	if (tests_are_nobodys && (setgid(NOBODY) || setuid(NOBODY)))
		_exit(126);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	execv(argv[0], argv);
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Prints the first traced events of a test that failed, and forgets them in any case. */
static void report_trace(bool failed)
{
	char line[512];
	int fd, nr = 0;
	FILE *f;

	f = failed ? fopen(TRACE, "re") : NULL;
	while (f && nr < MAX_TRACE && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (line[0] != '#' && ++nr)
			say("# trace: %s", line);
	}
	if (f)
		fclose(f);
	fd = open(TRACE, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
}

/*
 * Runs one test and prints its output and result line.  The pipe may outlive
 * the test in a stray child, hence the end is the death of the test and not
 * the end of its output.
 */
static void run_test(int nr, const char *name, int seconds, char **argv)
{
	long long begin = now_ms(), beat = begin;
	struct output out = { 0 };
	bool timed_out = false;
	int fds[2], status = 0;
	char buf[4096];
	ssize_t n;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		bail_out("pipe: %s", strerror(errno));

	kmsg("ci: begin %s", name);
	say("# begin %s", name);
	pid = start(argv, fds[1]);
	close(fds[1]);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);

	while (!waitpid(pid, &status, WNOHANG)) {
		struct pollfd pfd = { .fd = fds[0], .events = POLLIN };

		poll(&pfd, 1, 200);
		if (pfd.revents & POLLIN) {
			while ((n = read(fds[0], buf, sizeof(buf))) > 0)
				take_output(&out, buf, n);
		} else if (pfd.revents) {
			usleep(20000);	/* the test closed its output, but lives */
		}
		if (now_ms() - beat >= 5000) {
			beat = now_ms();
			say("# alive %s %lld", name, (beat - begin) / 1000);
		}
		if (!timed_out && now_ms() - begin > seconds * 1000LL) {
			timed_out = true;
			show_state();
			kill(-pid, SIGKILL);
		}
	}
	kill(-pid, SIGKILL);
	while ((n = read(fds[0], buf, sizeof(buf))) > 0)
		take_output(&out, buf, n);
	if (out.len)
		end_line(&out);
	close(fds[0]);

	kmsg("ci: end %s", name);
	report_trace(timed_out || WIFSIGNALED(status) ||
		     (WEXITSTATUS(status) && WEXITSTATUS(status) != KSFT_SKIP));
	say("# time_ms=%lld", now_ms() - begin);
	if (timed_out)
		say("not ok %d %s # TIMEOUT %d", nr, name, seconds);
	else if (WIFSIGNALED(status))
		say("not ok %d %s # signal=%d", nr, name, WTERMSIG(status));
	else if (WEXITSTATUS(status) == KSFT_SKIP)
		say("ok %d %s # SKIP%s%s", nr, name, out.skip[0] == ' ' ? "" : " ",
		    out.skip[0] ? out.skip : "no reason given");
	else if (WEXITSTATUS(status))
		say("not ok %d %s # exit=%d", nr, name, WEXITSTATUS(status));
	else
		say("ok %d %s", nr, name);

	/* Orphans of the test are ours by now. */
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static void set(char **words, int nr)
{
	char value[MAX_LINE] = "";
	int fd, len = 0;

	for (int i = 2; i < nr && len < MAX_LINE; i++)
		len += snprintf(value + len, MAX_LINE - len, "%s%s", i > 2 ? " " : "", words[i]);
	if (len >= MAX_LINE)
		bail_out("/plan: more than %d bytes for %s", MAX_LINE - 1, words[1]);
	fd = open(words[1], O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		/* A kernel of the user's own may lack it; the tests that need it will tell. */
		say("# no %s on this kernel", words[1]);
		return;
	}
	if (fd < 0 || write(fd, value, len) != len)
		bail_out("cannot write '%s' to %s: %s", value, words[1], strerror(errno));
	close(fd);
}

/* What mkswap writes, and swapon. */
static void swap_to(const char *device)
{
	long page_size = sysconf(_SC_PAGESIZE);
	char header[page_size];
	unsigned long long size;
	unsigned int *version = (unsigned int *)(header + 1024), *last_page = version + 1;
	int fd = open(device, O_RDWR | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		say("# no %s on this kernel", device);
		return;
	}
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size))
		bail_out("cannot open %s: %s", device, strerror(errno));
	memset(header, 0, page_size);
	*version = 1;
	*last_page = size / page_size - 1;
	memcpy(header + page_size - 10, "SWAPSPACE2", 10);
	if (write(fd, header, page_size) != page_size || fsync(fd) || swapon(device, 0))
		bail_out("cannot swap to %s: %s", device, strerror(errno));
	close(fd);
}

/* Tests inherit init's CPUs. */
static void use_cpus(int first)
{
	int cpu, nr = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t cpus;

	if (nr <= first)
		return;
	CPU_ZERO(&cpus);
	for (cpu = first; cpu < nr; cpu++)
		CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		bail_out("cannot leave CPUs below %d, of %d, to others: %s", first, nr, strerror(errno));
}

static void be_nobody(void)
{
	if (chmod("/dev/kvm", 0666))
		bail_out("cannot give away /dev/kvm: %s", strerror(errno));
	tests_are_nobodys = true;
}

static void keep_vm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, KVM_CREATE_VM, 0) < 0)
		bail_out("cannot create a VM by /dev/kvm: %s", strerror(errno));
}

static void shell(void)
{
	char *argv[] = { "/bin/busybox", "sh", NULL };
	pid_t pid = fork();

	if (!pid) {
		setsid();
		setenv("PATH", "/bin:/tests", 1);
		setenv("PS1", "lane# ", 1);
		execv(argv[0], argv);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
}

/* Undoes what plan_words() of ci/lib/lane.sh does. */
static void unescape(char *word)
{
	char *to = word;

	while (*word) {
		if (word[0] == '\\' && word[1] && word[2] && word[3]) {
			*to++ = (word[1] - '0') << 6 | (word[2] - '0') << 3 | (word[3] - '0');
			word += 4;
		} else {
			*to++ = *word++;
		}
	}
	*to = '\0';
}

static int split(char *line, char **words)
{
	int nr = 0;

	line[strcspn(line, "\n")] = '\0';
	for (char *w = strtok(line, " "); w; w = strtok(NULL, " ")) {
		if (nr == MAX_WORDS)
			bail_out("/plan: more than %d words in a line", MAX_WORDS);
		unescape(w);
		words[nr++] = w;
	}
	words[nr] = NULL;
	return nr;
}

static int count_tests(FILE *plan)
{
	char *line = NULL;
	size_t size = 0;
	int nr = 0;

	while (getline(&line, &size, plan) > 0)
		nr += !strncmp(line, "test ", 5);
	rewind(plan);
	free(line);
	return nr;
}

int main(void)
{
	char *words[MAX_WORDS + 1];
	int nr_words, nr = 0;
	char *line = NULL;
	size_t size = 0;
	FILE *plan;

	if (getpid() != 1) {
		fprintf(stderr, "init: PID 1 of a lane, started by ci/run; not a program to run by hand\n");
		return 2;
	}

	mount_or_bail("devtmpfs", "/dev", NULL);
	mount_or_bail("proc", "/proc", NULL);
	mount_or_bail("sysfs", "/sys", NULL);
	mount_or_bail("tmpfs", "/tmp", NULL);
	mkdir("/dev/shm", 0755);
	mount_if_possible("tmpfs", "/dev/shm");
	mount_if_possible("debugfs", "/sys/kernel/debug");
	mount_if_possible("tracefs", "/sys/kernel/tracing");
	mount_if_possible("cgroup2", "/sys/fs/cgroup");
	mount_if_possible("hugetlbfs", "/dev/hugepages");

	/* What the kernel doesn't know on its command line becomes init's environment. */
	port = getenv("verdict") ? open_tty(getenv("verdict")) : open_virtio_port();
	if (!port)
		bail_out("no virtio-serial port named " PORT_NAME ", and no verdict=TTY");
	plan = fopen("/plan", "re");
	if (!plan)
		bail_out("no /plan in the initramfs");

	say("KTAP version 1");
	say("1..%d", count_tests(plan));
	report_kernel();
	if (access("/dev/kvm", R_OK | W_OK))
		bail_out("no usable /dev/kvm: the kernel lacks KVM or the CPU lacks svm/vmx");

	while (getline(&line, &size, plan) > 0) {
		nr_words = split(line, words);
		if (!nr_words || words[0][0] == '#')
			continue;
		if (!strcmp(words[0], "test") && nr_words >= 4)
			run_test(++nr, words[1], atoi(words[2]), words + 3);
		else if (!strcmp(words[0], "vm"))
			keep_vm();
		else if (!strcmp(words[0], "user"))
			be_nobody();
		else if (!strcmp(words[0], "cpus") && nr_words == 2)
			use_cpus(atoi(words[1]));
		else if (!strcmp(words[0], "set") && nr_words >= 3)
			set(words, nr_words);
		else if (!strcmp(words[0], "swap") && nr_words == 2)
			swap_to(words[1]);
		else if (!strcmp(words[0], "shell"))
			shell();
		else
			bail_out("/plan: cannot read '%s'", words[0]);
	}
	say("# done");
	power_off();
}

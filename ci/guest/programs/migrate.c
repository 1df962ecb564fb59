// SPDX-License-Identifier: GPL-2.0-only
/*
 * migrate [-n MIGRATIONS] [-p PAGES] [-w WRITES] [-r] [-2] - live migration of a guest
 * that writes to its memory, from one QEMU to another one, and to the next
 *
 *	-n	migrations (default 4), precopy, through a FIFO
 *	-p	4K pages that the guest writes to (default 16384)
 *	-w	of them, per second, at random (default 8192)
 *	-r	KVM logs writes in its dirty rings, not in bitmaps
 *	-2	it has nested guests, which write
 *
 * Runs in a lane that has a VMM ("vmm=" in ci/lanes): QEMU and its libraries, a
 * kernel as /guest/kernel, and migrate_guest as /guest/initramfs.
 *
 * Prints, for each migration, key=value lines:
 *	total_ms, downtime_ms, rounds	as QEMU counts them; a round sends what was
 *					written during the one before
 *	writes_percent			what the guest wrote meanwhile, of what was
 *					asked of it
 * and fails if the guest finds, in the two sweeps over its memory that follow each
 * migration, a page without its last write.
 *
 * What can't be tested: writes that are lost and repeated before the sweep.
 *
 * Exit: 0 nothing was lost; 1 something was, or a migration failed; 2 wrong usage;
 * 3 QEMU can't be run here; 4 there is none in this lane.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VMM		"/usr/bin/qemu-system-x86_64"
/* The guest boots, or sweeps its memory twice; a migration ends.  Emulated. */
#define PATIENCE_MS	300000

struct vmm {
	pid_t pid;
	/* FIFOs, as the lane's kernel has no sockets. */
	FILE *commands, *replies;
	int nr;
};

struct progress {
	unsigned long writes, sweeps, lost;
};

static unsigned long nr_pages = 16384;
static unsigned long write_rate = 8192;
static bool dirty_ring;
static bool nested;

static void __attribute__((noreturn, format(printf, 2, 3))) fail(int code, const char *fmt, ...)
{
	va_list ap;

	/* The report quotes a subtest that is not ok. */
	printf("    not ok 1 ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(code);
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Whether PATIENCE_MS are left since then; sleeps a little if so. */
static bool patience(long long since)
{
	if (now_ms() - since > PATIENCE_MS)
		return false;
	usleep(10000);
	return true;
}

/* The end of what the guest said; returns its length. */
static ssize_t guest_tail(const struct vmm *v, char *tail, ssize_t size)
{
	char path[32];
	ssize_t n;
	off_t end;
	int fd;

	snprintf(path, sizeof(path), "serial.%d", v->nr);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	end = lseek(fd, 0, SEEK_END);
	n = pread(fd, tail, size, end > size ? end - size : 0);
	close(fd);
	return n;
}

/* The last line of the guest that is complete. */
static bool guest_progress(const struct vmm *v, struct progress *p)
{
	char tail[512];
	ssize_t n = guest_tail(v, tail, sizeof(tail));

	while (n > 0 && tail[n - 1] != '\n')
		n--;
	while (n-- > 0) {
		tail[n] = '\0';
		while (n && tail[n - 1] != '\n')
			n--;
		if (sscanf(tail + n, "guest: writes=%lu sweeps=%lu lost=%lu",
			   &p->writes, &p->sweeps, &p->lost) == 3)
			return true;
	}
	return false;
}

/* Waits until the guest has checked all of its memory so often, and found nothing. */
static void wait_for_sweep(const struct vmm *v, unsigned long sweep, struct progress *p)
{
	long long begin = now_ms();
	char tail[2048];
	ssize_t n;

	while (!guest_progress(v, p) || p->lost || p->sweeps < sweep) {
		if (p->lost)
			fail(1, "%lu pages are without their last write, in QEMU %d", p->lost, v->nr);
		if (waitpid(v->pid, NULL, WNOHANG))
			fail(3, "QEMU %d has ended, see above", v->nr);
		if (!patience(begin)) {
			n = guest_tail(v, tail, sizeof(tail));
			printf("%.*s\n", (int)n, tail);
			fail(1, "the guest in QEMU %d doesn't come to sweep %lu", v->nr, sweep);
		}
	}
}

/* Executes a command of QMP, "execute" and what follows; returns the reply. */
static const char *qmp(struct vmm *v, const char *command)
{
	static char reply[16384];

	fprintf(v->commands, "{ \"execute\": %s }\n", command);
	fflush(v->commands);
	do {
		if (!fgets(reply, sizeof(reply), v->replies))
			fail(1, "QEMU %d doesn't answer to %s", v->nr, command);
	} while (strstr(reply, "\"event\""));
	if (strstr(reply, "\"error\""))
		fail(1, "%s: %s", command, reply);
	return reply;
}

static long long number(const char *reply, const char *name)
{
	char key[64];
	const char *at;

	snprintf(key, sizeof(key), "\"%s\": ", name);
	at = strstr(reply, key);
	if (!at)
		fail(1, "QEMU doesn't tell %s: %s", name, reply);
	return atoll(at + strlen(key));
}

static void make_fifo(const char *path)
{
	/* One may be there from an earlier run. */
	unlink(path);
	if (mkfifo(path, 0600))
		fail(3, "mkfifo %s: %s", path, strerror(errno));
}

/* QEMU reads commands from PATH.in, and writes replies to PATH.out. */
static void connect_qmp(struct vmm *v, const char *in, const char *out)
{
	/* Neither waits for QEMU. */
	int in_fd = open(in, O_RDWR | O_CLOEXEC);
	int out_fd = open(out, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct pollfd greeted = { .fd = out_fd, .events = POLLIN };
	long long begin = now_ms();
	char greeting[1024];

	if (in_fd < 0 || out_fd < 0)
		fail(3, "no way to talk to QEMU %d: %s", v->nr, strerror(errno));
	while (poll(&greeted, 1, 0) < 1 || !(greeted.revents & POLLIN)) {
		if (waitpid(v->pid, NULL, WNOHANG))
			fail(3, "QEMU %d has ended, see above", v->nr);
		if (!patience(begin))
			fail(3, "QEMU %d opens no monitor", v->nr);
	}
	fcntl(out_fd, F_SETFL, 0);
	v->commands = fdopen(in_fd, "w");
	v->replies = fdopen(out_fd, "r");
	if (!v->commands || !v->replies || !fgets(greeting, sizeof(greeting), v->replies))
		fail(3, "QEMU %d doesn't greet", v->nr);
	qmp(v, "\"qmp_capabilities\"");
}

/*
 * Starts QEMU number nr: with a guest that boots, or one that waits for a migration.  Its CPU is
 * QEMU's plainest, as a guest with "host" under an emulated SVM finds its XSAVE area inconsistent,
 * and stops there.
 */
static void start(struct vmm *v, int nr, bool incoming)
{
	char append[128], serial[64], monitor[64], uri[64], in[64], out[64];
	const char *argv[] = {
		VMM, "-accel", dirty_ring ? "kvm,dirty-ring-size=4096" : "kvm",
		"-machine", "q35", "-cpu", nested ? "qemu64,+svm,+npt" : "qemu64,-svm", "-smp", "2", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
		"-kernel", "/guest/kernel", "-initrd", "/guest/initramfs", "-append", append,
		"-serial", serial, "-qmp", monitor, incoming ? "-incoming" : NULL, uri, NULL
	};

	snprintf(append, sizeof(append), "console=ttyS0 panic=-1 pages=%lu rate=%lu%s",
		 nr_pages, write_rate, nested ? " nested=1" : "");
	snprintf(serial, sizeof(serial), "file:serial.%d", nr);
	snprintf(monitor, sizeof(monitor), "pipe:qmp.%d", nr);
	snprintf(in, sizeof(in), "qmp.%d.in", nr);
	snprintf(out, sizeof(out), "qmp.%d.out", nr);
	snprintf(uri, sizeof(uri), "exec:cat migrate.%d", nr);
	make_fifo(in);
	make_fifo(out);
	if (incoming)
		make_fifo(strrchr(uri, ' ') + 1);

	v->nr = nr;
	fflush(stdout);
	v->pid = fork();
	if (!v->pid) {
		execv(VMM, (char **)argv);
		fail(3, "%s: %s", VMM, strerror(errno));
	}
	connect_qmp(v, in, out);
}

static void stop(struct vmm *v)
{
	qmp(v, "\"quit\"");
	fclose(v->commands);
	fclose(v->replies);
	waitpid(v->pid, NULL, 0);
}

static void migrate(struct vmm *from, const struct vmm *to)
{
	struct progress before, after;
	char command[128];
	const char *reply;
	long long begin;

	snprintf(command, sizeof(command),
		 "\"migrate\", \"arguments\": { \"uri\": \"exec:cat >migrate.%d\" }", to->nr);
	guest_progress(from, &before);
	begin = now_ms();
	qmp(from, command);
	for (;;) {
		reply = qmp(from, "\"query-migrate\"");
		/* QEMU says that it is done a moment before it knows how long it took. */
		if (strstr(reply, "\"status\": \"completed\"") && number(reply, "total-time"))
			break;
		if (strstr(reply, "\"status\": \"failed\"") || !patience(begin))
			fail(1, "migration %d: %s", to->nr, reply);
	}
	guest_progress(from, &after);

	printf("total_ms=%lld\n", number(reply, "total-time"));
	printf("downtime_ms=%lld\n", number(reply, "downtime"));
	printf("rounds=%lld\n", number(reply, "dirty-sync-count"));
	printf("writes_percent=%lld\n", (long long)(after.writes - before.writes) * 100000 /
	       (long long)write_rate / number(reply, "total-time"));

	/* All of the memory, after what was under way. */
	wait_for_sweep(to, after.sweeps + 3, &after);
}

int main(int argc, char **argv)
{
	struct progress progress = { };
	struct vmm vmms[2] = { };
	int opt, i, nr = 4;

	while ((opt = getopt(argc, argv, "n:p:w:r2")) != -1) {
		switch (opt) {
		case 'n':
			nr = atoi(optarg);
			break;
		case 'p':
			nr_pages = strtoul(optarg, NULL, 0);
			break;
		case 'w':
			write_rate = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			dirty_ring = true;
			break;
		case '2':
			nested = true;
			break;
		default:
			return 2;
		}
	}
	if (nr < 1 || nr_pages < 2 || write_rate < 200)
		fail(2, "wants -n from 1, -p from 2, -w from 200");
	if (access(VMM, X_OK)) {
		printf("1..0 # SKIP this lane has no VMM\n");
		return 4;
	}

	if (chdir("/dev/shm"))
		fail(3, "no room for FIFOs: %s", strerror(errno));

	start(&vmms[0], 0, false);
	wait_for_sweep(&vmms[0], 1, &progress);
	for (i = 0; i < nr; i++) {
		start(&vmms[(i + 1) % 2], i + 1, true);
		migrate(&vmms[i % 2], &vmms[(i + 1) % 2]);
		stop(&vmms[i % 2]);
	}
	stop(&vmms[nr % 2]);
	return 0;
}

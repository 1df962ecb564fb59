/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts how often trace events of KVM occur, on all CPUs, in a tracefs instance of
 * its own, i.e. without getting in the way of what else is traced.
 */
#ifndef SELFTEST_KVM_TRACE_COUNT_H
#define SELFTEST_KVM_TRACE_COUNT_H

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test_util.h"

/* PROC_PID_INIT_INO of the kernel. */
#define INIT_PID_NS	0xeffffffcu

static char trace_instance[64];

/* Tracing knows tasks by their numbers there. */
static inline bool in_initial_pid_namespace(void)
{
	struct stat st;

	return !stat("/proc/self/ns/pid", &st) && st.st_ino == INIT_PID_NS;
}

/* A file of the test's instance, valid until the next call. */
static inline const char *trace_path(const char *file)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", trace_instance, file);
	return path;
}

static inline void trace_count_remove(void)
{
	rmdir(trace_instance);
}

/* False if there is no tracefs to count with.  The instance goes when the test ends. */
static inline bool trace_count_start(void)
{
	bool made;

	snprintf(trace_instance, sizeof(trace_instance),
		 "/sys/kernel/tracing/instances/kvm_selftest.%d", getpid());
	rmdir(trace_instance);
	made = !mkdir(trace_instance, 0755);
	if (made)
		atexit(trace_count_remove);
	/* Lest an assertion that fails later is taken for a lack of privileges. */
	errno = 0;
	return made;
}

/* Counts the event from now on; false if the kernel doesn't have it. */
static inline bool trace_count_event(const char *event)
{
	char path[64];
	bool enabled;
	int fd;

	snprintf(path, sizeof(path), "events/kvm/%s/enable", event);
	fd = open(trace_path(path), O_WRONLY);
	if (fd < 0) {
		errno = 0;
		return false;
	}
	enabled = write(fd, "1", 1) == 1;
	TEST_ASSERT(enabled, "%s: %s", path, strerror(errno));
	close(fd);
	return true;
}

/* The number of events, those that the buffer had no more room for included. */
static inline u64 trace_count_stop(void)
{
	unsigned long nr, total = 0;
	char line[128];
	FILE *file;
	size_t i;
	glob_t g;

	TEST_ASSERT(!glob(trace_path("per_cpu/cpu*/stats"), 0, NULL, &g), "No %s",
		    trace_path("per_cpu/cpu*/stats"));
	for (i = 0; i < g.gl_pathc; i++) {
		file = fopen(g.gl_pathv[i], "r");
		TEST_ASSERT(file, "%s: %s", g.gl_pathv[i], strerror(errno));
		while (fgets(line, sizeof(line), file)) {
			if (sscanf(line, "entries: %lu", &nr) == 1 ||
			    sscanf(line, "overrun: %lu", &nr) == 1 ||
			    sscanf(line, "dropped events: %lu", &nr) == 1)
				total += nr;
		}
		fclose(file);
	}
	globfree(&g);
	TEST_ASSERT(!rmdir(trace_instance), "rmdir %s: %s", trace_instance, strerror(errno));
	return total;
}

#endif /* SELFTEST_KVM_TRACE_COUNT_H */

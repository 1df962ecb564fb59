/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How often a function of the kernel is called, and for how long it runs, with those it
 * calls, by ftrace's function profiler, i.e. needs a kernel with CONFIG_FUNCTION_PROFILER,
 * and nobody else who uses ftrace: there is one filter for all.
 */
#ifndef SELFTEST_KVM_FUNCTION_PROFILE_H
#define SELFTEST_KVM_FUNCTION_PROFILE_H

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_util.h"

#define TRACING	"/sys/kernel/tracing/"

struct function_profile {
	u64 calls;
	double us;
};

static inline void write_tracing_file(const char *file, const char *value)
{
	int fd = open(file, O_WRONLY | O_TRUNC);

	TEST_ASSERT(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value),
		    "%s: %s", file, strerror(errno));
	close(fd);
}

static inline bool tracing_file_begins(const char *file, const char *value)
{
	FILE *f = fopen(file, "r");
	char line[128] = "";

	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = '\0';
	fclose(f);
	return !strncmp(line, value, strlen(value));
}

static inline bool function_profile_usable(void)
{
	return !access(TRACING "function_profile_enabled", W_OK) &&
	       tracing_file_begins(TRACING "function_profile_enabled", "0") &&
	       tracing_file_begins(TRACING "current_tracer", "nop") &&
	       tracing_file_begins(TRACING "set_ftrace_filter", "#### all functions enabled");
}

/* Back to what function_profile_usable() wants. */
static inline void function_profile_end(void)
{
	write_tracing_file(TRACING "function_profile_enabled", "0");
	write_tracing_file(TRACING "set_ftrace_filter", "");
}

/* Starts at zero. */
static inline void function_profile_start(const char *function)
{
	static bool ends_at_exit;

	if (!ends_at_exit)
		ends_at_exit = !atexit(function_profile_end);
	write_tracing_file(TRACING "set_ftrace_filter", function);
	write_tracing_file(TRACING "function_profile_enabled", "1");
}

/* On all CPUs. */
static inline struct function_profile function_profile_stop(const char *function)
{
	struct function_profile sum = {};
	char line[256], name[128];
	double us;
	u64 calls;
	size_t i;
	glob_t g;

	write_tracing_file(TRACING "function_profile_enabled", "0");
	TEST_ASSERT(!glob(TRACING "trace_stat/function*", 0, NULL, &g), "No trace_stat");
	for (i = 0; i < g.gl_pathc; i++) {
		FILE *file = fopen(g.gl_pathv[i], "r");

		TEST_ASSERT(file, "%s: %s", g.gl_pathv[i], strerror(errno));
		while (fgets(line, sizeof(line), file)) {
			if (sscanf(line, "%127s %lu %lf us", name, &calls, &us) == 3 &&
			    !strcmp(name, function)) {
				sum.calls += calls;
				sum.us += us;
			}
		}
		fclose(file);
	}
	globfree(&g);
	function_profile_end();
	return sum;
}

#endif /* SELFTEST_KVM_FUNCTION_PROFILE_H */

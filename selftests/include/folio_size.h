/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sizes of the folios of anonymous memory, as set in sysfs.
 */
#ifndef SELFTEST_KVM_FOLIO_SIZE_H
#define SELFTEST_KVM_FOLIO_SIZE_H

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_util.h"

#define THP_ENABLED	"/sys/kernel/mm/transparent_hugepage/hugepages-%skB/enabled"

static inline bool set_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);
	bool done;

	if (fd < 0)
		return false;
	done = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	close(fd);
	return done;
}

static glob_t thp_files;
static char (*thp_values)[16];

/* The choice of such a file is the word in brackets. */
static inline void save_folio_sizes(void)
{
	char line[128], path[128];
	FILE *file;
	size_t i;

	snprintf(path, sizeof(path), THP_ENABLED, "*");
	if (glob(path, 0, NULL, &thp_files))
		return;
	thp_values = calloc(thp_files.gl_pathc, sizeof(*thp_values));
	TEST_ASSERT(thp_values, "No memory");
	for (i = 0; i < thp_files.gl_pathc; i++) {
		file = fopen(thp_files.gl_pathv[i], "r");
		TEST_ASSERT(file && fgets(line, sizeof(line), file) && strchr(line, '[') &&
			    sscanf(strchr(line, '['), "[%15[^]]", thp_values[i]) == 1,
			    "%s: %s", thp_files.gl_pathv[i], strerror(errno));
		fclose(file);
	}
}

static inline void restore_folio_sizes(void)
{
	size_t i;

	for (i = 0; i < thp_files.gl_pathc; i++)
		set_file(thp_files.gl_pathv[i], thp_values[i]);
}

static pid_t main_pid;
/* What else a test has to undo.  Called by a signal handler, too, and maybe twice. */
static void (*at_exit)(void);

/* Children exit, too, but it isn't theirs to restore. */
static inline void restore_at_exit(void)
{
	if (getpid() != main_pid)
		return;
	restore_folio_sizes();
	if (at_exit)
		at_exit();
}

/* Children go on alone, and end by themselves. */
static inline void restore_and_die(int sig)
{
	restore_at_exit();
	signal(sig, SIG_DFL);
	raise(sig);
}

static inline void restore_whatever_happens(void)
{
	const int sigs[] = { SIGHUP, SIGINT, SIGTERM };
	size_t i;

	main_pid = getpid();
	TEST_ASSERT(!atexit(restore_at_exit), "atexit failed");
	for (i = 0; i < ARRAY_SIZE(sigs); i++)
		signal(sigs[i], restore_and_die);
}

/* This size, and no other; false if the kernel lacks it. */
static inline bool set_folio_size(const char *kib)
{
	char path[128];
	size_t i;

	for (i = 0; i < thp_files.gl_pathc; i++)
		set_file(thp_files.gl_pathv[i], "never");
	if (!kib)
		return true;
	snprintf(path, sizeof(path), THP_ENABLED, kib);
	if (set_file(path, "always"))
		return true;
	/* Lest an assertion that fails later is taken for a lack of privileges. */
	errno = 0;
	return false;
}

#endif /* SELFTEST_KVM_FOLIO_SIZE_H */

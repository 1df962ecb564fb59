/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How often KVM's mmu_lock was taken, and for how long, according to /proc/lock_stat,
 * i.e. needs a kernel with CONFIG_LOCK_STAT.  The counts are those of all VMs, and of all
 * that the host does to their memory: count what a test does more than once, and take the
 * least.
 */
#ifndef SELFTEST_KVM_LOCK_STAT_H
#define SELFTEST_KVM_LOCK_STAT_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test_util.h"

#define LOCK_STAT	"/proc/lock_stat"
/* As in KVM_MMU_LOCK_INIT(). */
#define MMU_LOCK	"&(kvm)->mmu_lock"
/* How often to count. */
#define MMU_LOCK_TRIES	5

struct lock_counts {
	u64 writes;
	u64 reads;
	/* The longest that it was held, in microseconds. */
	double longest_write;
	double longest_read;
};

/* False if the kernel doesn't count, e.g. as a report by lockdep has ended that. */
static inline bool lock_stat_usable(void)
{
	FILE *file = fopen("/proc/sys/kernel/lock_stat", "r");
	char line[512] = "";
	int on = 1;

	if (file) {
		if (fscanf(file, "%d", &on) != 1)
			on = 0;
		fclose(file);
	}
	file = fopen(LOCK_STAT, "r");
	/* Lest an assertion that fails later is taken for a lack of privileges. */
	errno = 0;
	if (!on || !file)
		return false;
	while (fgets(line, sizeof(line), file) && !strstr(line, "WARNING"))
		;
	fclose(file);
	return !strstr(line, "WARNING");
}

/*
 * Lines are "NAME-W: ..." and "NAME-R: ..." or, as long as the lock hasn't been
 * taken for read, "NAME: ...".  The eighth number is that of acquisitions, the tenth the
 * longest hold.
 */
static inline struct lock_counts read_mmu_lock_counts(void)
{
	struct lock_counts counts = {};
	FILE *file = fopen(LOCK_STAT, "r");
	char line[512], kind, *pos;
	double longest;
	u64 nr;
	int i;

	TEST_ASSERT(file, "Can't open " LOCK_STAT);
	while (fgets(line, sizeof(line), file)) {
		pos = strstr(line, MMU_LOCK);
		if (!pos)
			continue;
		pos += strlen(MMU_LOCK);
		/* Lines without a colon tell who contends for the lock. */
		if (*pos == ':')
			kind = 'W';
		else if (*pos == '-' && (pos[1] == 'W' || pos[1] == 'R') && pos[2] == ':')
			kind = pos[1];
		else
			continue;
		/* con-bounces contentions waittime-{min,max,total,avg} acq-bounces */
		pos = strchr(pos, ':') + 1;
		for (i = 0; i < 7; i++)
			strtod(pos, &pos);
		nr = strtoul(pos, &pos, 10);
		/* holdtime-{min,max} */
		strtod(pos, &pos);
		longest = strtod(pos, &pos);
		if (kind == 'W') {
			counts.writes = nr;
			counts.longest_write = longest;
		} else {
			counts.reads = nr;
			counts.longest_read = longest;
		}
	}
	fclose(file);
	return counts;
}

/* Has the kernel forget all of its locks' statistics, i.e. what others may want to know. */
static inline void reset_lock_stat(void)
{
	FILE *file = fopen(LOCK_STAT, "w");

	TEST_ASSERT(file && fputs("0", file) >= 0 && !fclose(file), "Can't reset " LOCK_STAT);
}

#endif /* SELFTEST_KVM_LOCK_STAT_H */

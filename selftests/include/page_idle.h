/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The idle page bitmap, see Documentation/admin-guide/mm/idle_page_tracking.rst:
 * a bit for each PFN, read and written in words of 64 bits.  Writing a set bit
 * makes the page idle, clear bits are ignored.
 */
#ifndef SELFTEST_KVM_PAGE_IDLE_H
#define SELFTEST_KVM_PAGE_IDLE_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitops.h>

#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define PAGE_IDLE_BITMAP	"/sys/kernel/mm/page_idle/bitmap"
#define PAGE_IDLE_BITS		64

static inline int open_page_idle(void)
{
	return __open_path_or_exit(PAGE_IDLE_BITMAP, O_RDWR,
				   "Is CONFIG_IDLE_PAGE_TRACKING enabled?");
}

/*
 * All of the memory must be present, and stay where it is.  False if it isn't, or without
 * CAP_SYS_ADMIN, which it takes to know PFNs.
 */
static inline bool __look_up_pfns(void *mem, u64 page_size, u64 nr_pages, u64 *pfns)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 page, entry;

	if (fd < 0)
		return false;
	for (page = 0; page < nr_pages; page++) {
		off_t index = ((unsigned long)mem + page * page_size) / getpagesize();

		TEST_ASSERT(pread(fd, &entry, 8, index * 8) == 8,
			    "/proc/self/pagemap: %s", strerror(errno));
		/* Bit 63: present.  Bits 54:0: the PFN. */
		pfns[page] = entry & GENMASK_ULL(54, 0);
		if (!(entry >> 63) || !pfns[page])
			break;
	}
	close(fd);
	return page == nr_pages;
}

static inline void look_up_pfns(void *mem, u64 page_size, u64 nr_pages, u64 *pfns)
{
	__TEST_REQUIRE(__look_up_pfns(mem, page_size, nr_pages, pfns),
		       "Looking up PFNs requires CAP_SYS_ADMIN, and memory that isn't swapped");
}

static inline u64 read_page_idle(int fd, u64 word)
{
	u64 bits;

	TEST_ASSERT(pread(fd, &bits, 8, word * 8) == 8,
		    PAGE_IDLE_BITMAP ": %s", strerror(errno));
	return bits;
}

static inline void write_page_idle(int fd, u64 word, u64 bits)
{
	TEST_ASSERT(pwrite(fd, &bits, 8, word * 8) == 8,
		    PAGE_IDLE_BITMAP ": %s", strerror(errno));
}

#endif /* SELFTEST_KVM_PAGE_IDLE_H */

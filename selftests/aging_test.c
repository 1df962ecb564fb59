// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM tells pages that a guest accesses from pages that it doesn't.
 *
 * Mark all pages of a memslot idle via the idle page bitmap, i.e. have KVM clear
 * their Accessed bits, let the guest access some of them, and verify that these
 * are accessed according to the bitmap, and that most of the others are not.  Do so
 * before and after some seconds during which pages are aged while vCPUs access and
 * fault on them.  Given CONFIG_LOCK_STAT, verify that mmu_lock isn't taken for write to age pages.
 *
 * KVM doesn't flush TLBs when it clears Accessed bits, i.e. an access that hits in
 * a TLB may go unnoticed.  KVM does flush the TLBs of a memslot when a bit of its
 * dirty log is cleared: the memslot is dirty logged for this reason alone, and its
 * last page, which every pass of the guest writes, isn't aged but provides the bit.
 *
 * What can't be tested: that no page is accessed that the guest's code doesn't access, as
 * CPUs may set Accessed bits of pages that they access speculatively, or prefetch.
 * Pages that aren't on a LRU list, which can't be marked
 * idle.  There may be a few of them, as pages get there in batches.  Whether a page
 * is reported as accessed when it changes while it is aged, as both is fine.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "lock_stat.h"
#include "page_idle.h"
#include "pin_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define TEST_MEM_SIZE	SZ_4M
/* With the smallest of all pages. */
#define MAX_PAGES	(TEST_MEM_SIZE / SZ_4K)

#define NR_VCPUS	2
#define NR_ROUNDS	4

/* Shared with the guest. */
enum access {
	ACCESS_NONE,
	ACCESS_READ,
	ACCESS_WRITE,
};
static u8 accesses[MAX_PAGES];
/* The page to access instead, which is the page itself unless it is to be left alone. */
static u32 targets[MAX_PAGES];
static u64 page_size;
static u64 nr_pages;
static bool guest_loop;

struct aging {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct kvm_random_state rng;
	void *mem;
	u8 *accesses;
	u32 *targets;
	bool *guest_loop;
	u64 *pfns;
	unsigned long *log;
	int idle_fd;
};

static struct aging aging;
static bool host_stop;

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < nr_pages; page++) {
			/* No branch must tell if a page is accessed, it could be mispredicted. */
			u64 *p = (u64 *)(TEST_GVA + READ_ONCE(targets[page]) * page_size);

			if (READ_ONCE(accesses[page]) == ACCESS_READ)
				READ_ONCE(*p);
			else
				WRITE_ONCE(*p, page);
		}
		if (!READ_ONCE(guest_loop))
			GUEST_SYNC(0);
	}
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static void mark_idle(struct aging *a, u64 page)
{
	write_page_idle(a->idle_fd, a->pfns[page] / PAGE_IDLE_BITS,
			1ull << (a->pfns[page] % PAGE_IDLE_BITS));
}

static bool is_idle(struct aging *a, u64 page)
{
	return read_page_idle(a->idle_fd, a->pfns[page] / PAGE_IDLE_BITS) &
	       (1ull << (a->pfns[page] % PAGE_IDLE_BITS));
}

static void access_all(struct aging *a)
{
	u64 page;

	for (page = 0; page < nr_pages; page++) {
		a->accesses[page] = ACCESS_WRITE;
		a->targets[page] = page;
	}
}

static void flush_tlbs(struct aging *a)
{
	u64 last = nr_pages - 1;

	kvm_vm_get_dirty_log(a->vm, TEST_SLOT, a->log);
	TEST_ASSERT(test_bit(last, a->log), "The guest wrote the last page");
	/* Clear one bit only, but pass the whole range, to which KVM might limit the flush. */
	bitmap_zero(a->log, nr_pages);
	__set_bit(last, a->log);
	kvm_vm_clear_dirty_log(a->vm, TEST_SLOT, a->log, 0, nr_pages);
}

/* Age all pages, let the guest access some, and verify that KVM knows which ones. */
static void verify_round(struct aging *a, const char *when, int round)
{
	u64 page, nr = 0, nr_accessed = 0, missed = 0, wrong = 0;
	bool *idle = calloc(nr_pages, sizeof(*idle));
	u64 *pfns = calloc(nr_pages, sizeof(*pfns));

	TEST_ASSERT(idle && pfns, "No memory");
	look_up_pfns(a->mem, page_size, nr_pages, a->pfns);
	for (page = 0; page < nr_pages - 1; page++) {
		u32 dice = kvm_random_u32(&a->rng) % 4;

		a->accesses[page] = dice == 0 ? ACCESS_WRITE :
				    dice == 1 ? ACCESS_READ : ACCESS_NONE;
		a->targets[page] = dice < 2 ? page : nr_pages - 1;
		mark_idle(a, page);
		idle[page] = is_idle(a, page);
		nr += idle[page];
	}
	flush_tlbs(a);
	run_guest(a->vcpus[round % NR_VCPUS]);

	look_up_pfns(a->mem, page_size, nr_pages, pfns);
	for (page = 0; page < nr_pages - 1; page++) {
		/* The idle bitmap knows nothing of pages that were moved, e.g. by compaction. */
		if (!idle[page] || pfns[page] != a->pfns[page])
			continue;
		nr_accessed += a->accesses[page] != ACCESS_NONE;
		if (is_idle(a, page))
			missed += a->accesses[page] != ACCESS_NONE;
		else
			wrong += a->accesses[page] == ACCESS_NONE;
	}
	printf("when=%s round=%d aged=%lu\n", when, round, nr);
	printf("when=%s round=%d accessed=%lu\n", when, round, nr_accessed);
	printf("when=%s round=%d wrongly_young=%lu\n", when, round, wrong);

	TEST_ASSERT(nr >= nr_pages / 2, "Only %lu of %lu pages can be aged", nr, nr_pages);
	TEST_ASSERT(!missed, "%lu of %lu accessed pages are reported as idle", missed, nr_accessed);
	TEST_ASSERT(wrong <= (nr - nr_accessed) / 2,
		    "%lu of %lu idle pages are reported as accessed",
		    wrong, nr - nr_accessed);
	free(pfns);
	free(idle);
}

/* Others may take mmu_lock, too, but not each time that pages are aged. */
static void verify_locks(struct aging *a)
{
	struct lock_counts before, after, least = { .writes = -1, .reads = -1 };
	u64 page;
	int i;

	if (!lock_stat_usable()) {
		pr_info("Not counting locks, needs CONFIG_LOCK_STAT and root\n");
		return;
	}

	for (i = 0; i < MMU_LOCK_TRIES && least.writes; i++) {
		before = read_mmu_lock_counts();
		for (page = 0; page < nr_pages - 1; page++) {
			mark_idle(a, page);
			is_idle(a, page);
		}
		after = read_mmu_lock_counts();
		least.writes = min(least.writes, after.writes - before.writes);
		least.reads = min(least.reads, after.reads - before.reads);
	}
	printf("age_write_locks=%lu\n", least.writes);
	printf("age_read_locks=%lu\n", least.reads);
	TEST_ASSERT(!least.writes, "Aging took mmu_lock for write %lu times", least.writes);

	/* If nothing ever counted, the above would prove nothing. */
	TEST_ASSERT(!mprotect(a->mem, page_size, PROT_READ) &&
		    !mprotect(a->mem, page_size, PROT_READ | PROT_WRITE),
		    "mprotect: %s", strerror(errno));
	TEST_ASSERT(read_mmu_lock_counts().writes > after.writes,
		    "Zapping takes mmu_lock for write, but that isn't counted");
}

static void *vcpu_worker(void *vcpu)
{
	run_guest(vcpu);
	return NULL;
}

static void *age_worker(void *data)
{
	struct aging *a = data;
	u64 page;

	while (!READ_ONCE(host_stop)) {
		for (page = 0; page < nr_pages - 1; page++) {
			mark_idle(a, page);
			is_idle(a, page);
		}
	}
	return NULL;
}

/* Have vCPUs access and fault on pages while two threads age them. */
static void disturb(struct aging *a, int seconds)
{
	pthread_t vcpus[NR_VCPUS], agers[2];
	int prot = PROT_READ | PROT_WRITE;
	struct timespec start;
	u64 len = SZ_64K, nr;
	int i;

	access_all(a);
	WRITE_ONCE(*a->guest_loop, true);
	for (i = 0; i < NR_VCPUS; i++)
		kvm_pthread_create(&vcpus[i], NULL, vcpu_worker, a->vcpus[i]);
	for (i = 0; i < (int)ARRAY_SIZE(agers); i++)
		kvm_pthread_create(&agers[i], NULL, age_worker, a);

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (nr = 0; timespec_elapsed(start).tv_sec < seconds; nr++) {
		/* Any change of protections zaps mappings; keep the memory writable. */
		void *mem = a->mem + nr * len % TEST_MEM_SIZE;

		TEST_ASSERT(!mprotect(mem, len, prot | PROT_EXEC) && !mprotect(mem, len, prot),
			    "mprotect: %s", strerror(errno));
		usleep(200);
	}
	printf("zaps=%lu\n", nr);

	WRITE_ONCE(host_stop, true);
	for (i = 0; i < (int)ARRAY_SIZE(agers); i++)
		kvm_pthread_join(agers[i], NULL);
	WRITE_ONCE(*a->guest_loop, false);
	for (i = 0; i < NR_VCPUS; i++)
		kvm_pthread_join(vcpus[i], NULL);
}

static void create_vm(struct aging *a)
{
	u64 guest_pages;
	int drain, i;

	a->vm = vm_create_with_vcpus(NR_VCPUS, guest_code, a->vcpus);
	vm_enable_cap(a->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	/* The host ages its own pages. */
	page_size = max_t(u64, a->vm->page_size, getpagesize());
	nr_pages = TEST_MEM_SIZE / page_size;
	guest_pages = TEST_MEM_SIZE / a->vm->page_size;
	vm_userspace_mem_region_add(a->vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, guest_pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(a->vm, TEST_GVA, TEST_GPA, guest_pages);
	sync_global_to_guest(a->vm, page_size);
	sync_global_to_guest(a->vm, nr_pages);

	a->mem = addr_gpa2hva(a->vm, TEST_GPA);
	a->accesses = addr_gva2hva(a->vm, (gva_t)accesses);
	a->targets = addr_gva2hva(a->vm, (gva_t)targets);
	a->guest_loop = addr_gva2hva(a->vm, (gva_t)&guest_loop);
	a->pfns = calloc(nr_pages, sizeof(*a->pfns));
	a->log = bitmap_zalloc(nr_pages);
	TEST_ASSERT(a->pfns && a->log, "No memory");

	access_all(a);
	for (i = 0; i < NR_VCPUS; i++)
		run_guest(a->vcpus[i]);

	/* Compaction begins with having all CPUs put their pages on LRU lists. */
	drain = open("/proc/sys/vm/compact_memory", O_WRONLY);
	if (drain < 0 || write(drain, "1", 1) != 1)
		pr_info("Can't drain LRU batches: %s\n", strerror(errno));
	if (drain >= 0)
		close(drain);
	look_up_pfns(a->mem, page_size, nr_pages, a->pfns);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-r seed] [-t seconds]\n", name);
	puts("");
	printf(" -r: seed of the random choices (default: 1)\n");
	printf(" -t: seconds to age pages that are in use (default: 2)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	struct aging *a = &aging;
	int opt, round, seconds = 2;
	u32 seed = 1;

	while ((opt = getopt(argc, argv, "hr:t:")) != -1) {
		switch (opt) {
		case 'r':
			seed = atoi_paranoid(optarg);
			break;
		case 't':
			seconds = atoi_positive("Seconds", optarg);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
	a->idle_fd = open_page_idle();
	/* Which takes pages out of the guest, and what is known of its accesses with them. */
	stop_numa_balancing();
	a->rng = new_kvm_random_state(seed);

	create_vm(a);
	verify_locks(a);
	for (round = 0; round < NR_ROUNDS; round++)
		verify_round(a, "before", round);
	disturb(a, seconds);
	for (round = 0; round < NR_ROUNDS; round++)
		verify_round(a, "after", round);

	close(a->idle_fd);
	kvm_vm_free(a->vm);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify which pages KVM reports as young, and makes old, if the kernel asks it to
 * age a masked set of pages.
 *
 * MGLRU does so when it looks for pages that are in use, via the MMU notifier
 * clear_young_masked().  CONFIG_TEST_MMU_NOTIFIER provides a file by which the test
 * calls it itself, with windows and masks of its own.  The memory that is aged is
 * such that any mistake about where a bit belongs shows: several memslots, in another
 * order in guest memory than in host memory, that begin and end in the middle of
 * windows, with holes between them, two of them over the same host memory, and a second
 * VM that shares a part of it; and two memslots of huge pages.
 *
 * Each round zaps all mappings, has the guests access some pages, i.e. has KVM map
 * these and no others, and then ages random windows.  A page must be reported as young
 * if it was accessed and wasn't aged since.  At the end nothing must be left but the
 * accessed pages that were in no mask.
 *
 * Last, age pages that a vCPU has accessed and keeps faulting on: SPTEs that change
 * while KVM ages them must be reported as young.
 *
 * What can't be tested: accesses to pages that are mapped and old, as KVM doesn't
 * flush TLBs when it makes a page old.  Which of the pages that a huge mapping maps
 * was accessed, as all of them are young then.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define CLEAR_YOUNG_MASKED	"/sys/kernel/debug/test_mmu_notifier/clear_young_masked"

/* Pages of host memory, of the size that the host uses. */
#define NR_PAGES	256
#define NR_HUGE_PAGES	4
#define MAX_PAGES	(NR_HUGE_PAGES * SZ_2M / SZ_4K)

#define MAX_SLOTS	4
#define FIRST_SLOT	10
#define SLOT_GPA(slot)	(SZ_4G + (u64)(slot) * SZ_32M)
#define SLOT_GVA(slot)	(0x100000000ul + (slot) * SZ_32M)

/* Shared with the guest. */
enum access {
	ACCESS_NONE,
	ACCESS_READ,
	ACCESS_WRITE,
};
struct guest_slot {
	u64 gva;
	u64 nr_pages;
	u8 accesses[MAX_PAGES];
};
static struct guest_slot guest_slots[MAX_SLOTS];
static u64 page_size;
static u64 nr_passes;

/* A memslot: pages [first, first + nr) of the host memory. */
struct slot {
	u64 first;
	u64 nr;
	/* Where guest memory has it: the order isn't that of host memory. */
	int gpa_idx;
};

struct test_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	const struct slot *slots;
	struct guest_slot *guest_slots;
};

/* Pages 40 to 46 and 100 to 109 are in no memslot, 60 to 69 are in two. */
static const struct slot small_slots[] = {
	{ .first = 8,	.nr = 32,	.gpa_idx = 3 },
	{ .first = 47,	.nr = 53,	.gpa_idx = 1 },
	{ .first = 60,	.nr = 10,	.gpa_idx = 2 },
	{ .first = 110,	.nr = 140,	.gpa_idx = 0 },
	{ },
};

static const struct slot shared_slots[] = {
	{ .first = 30,	.nr = 30,	.gpa_idx = 1 },
	{ .first = 120,	.nr = 3,	.gpa_idx = 0 },
	{ },
};

static int door;
static void *mem;
static u64 mem_pages;
/* Pages that are young or old together. */
static u64 group_pages = 1;
static bool young[MAX_PAGES];
static struct kvm_random_state rng;

static void guest_code(void)
{
	u64 slot, page;

	for (;;) {
		for (slot = 0; slot < MAX_SLOTS; slot++) {
			struct guest_slot *s = &guest_slots[slot];

			for (page = 0; page < s->nr_pages; page++) {
				u64 *p = (u64 *)(s->gva + page * page_size);

				if (READ_ONCE(s->accesses[page]) == ACCESS_READ)
					READ_ONCE(*p);
				else if (READ_ONCE(s->accesses[page]) == ACCESS_WRITE)
					WRITE_ONCE(*p, page);
			}
		}
		WRITE_ONCE(nr_passes, nr_passes + 1);
		GUEST_SYNC(0);
	}
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static unsigned long age(s64 page, unsigned long mask)
{
	char buf[64];
	int len;

	len = snprintf(buf, sizeof(buf), "%lx %lx",
		       (unsigned long)mem + page * page_size, mask);
	TEST_ASSERT(write(door, buf, len) == len, "%s: %s", CLEAR_YOUNG_MASKED, strerror(errno));
	len = pread(door, buf, sizeof(buf) - 1, 0);
	TEST_ASSERT(len > 0, "%s: %s", CLEAR_YOUNG_MASKED, strerror(errno));
	buf[len] = '\0';
	return strtoul(buf, NULL, 16);
}

/* Ages a window, which may begin before and end after the memory, and its model. */
static void age_and_verify(s64 first, unsigned long mask)
{
	unsigned long expected = 0, reported;
	int i;

	for (i = 0; i < BITS_PER_LONG; i++) {
		s64 page = first + i;

		if ((mask & BIT(i)) && page >= 0 && page < (s64)mem_pages &&
		    young[page / group_pages])
			expected |= BIT(i);
	}
	for (i = 0; i < BITS_PER_LONG; i++) {
		if (expected & BIT(i))
			young[(first + i) / group_pages] = false;
	}

	reported = age(first, mask);
	TEST_ASSERT(reported == expected,
		    "Aging pages %lx from page %ld on reported %lx as young, %lx were accessed",
		    mask, first, reported, expected);
}

static unsigned long random_mask(void)
{
	unsigned long a = (u64)kvm_random_u32(&rng) << 32 | kvm_random_u32(&rng);
	unsigned long b = (u64)kvm_random_u32(&rng) << 32 | kvm_random_u32(&rng);

	switch (kvm_random_u32(&rng) % 4) {
	case 0:
		return BIT(a % BITS_PER_LONG);
	case 1:
		return GENMASK(max(a % BITS_PER_LONG, b % BITS_PER_LONG),
			       min(a % BITS_PER_LONG, b % BITS_PER_LONG));
	case 2:
		return ~0ul;
	default:
		return a & b ?: 1;
	}
}

static void zap_all(void)
{
	int prot = PROT_READ | PROT_WRITE;
	u64 len = mem_pages * page_size;

	/* Any change of protections zaps mappings. */
	TEST_ASSERT(!mprotect(mem, len, prot | PROT_EXEC) && !mprotect(mem, len, prot),
		    "mprotect: %s", strerror(errno));
	memset(young, 0, sizeof(young));
}

/* One page in density is accessed. */
static void access_some(struct test_vm *t, u32 density)
{
	u64 page;
	int i;

	for (i = 0; t->slots[i].nr; i++) {
		for (page = 0; page < t->slots[i].nr; page++) {
			bool hit = kvm_random_u32(&rng) % density == 0;

			t->guest_slots[i].accesses[page] = !hit ? ACCESS_NONE :
				kvm_random_bool(&rng) ? ACCESS_READ : ACCESS_WRITE;
			if (hit)
				young[(t->slots[i].first + page) / group_pages] = true;
		}
	}
	run_guest(t->vcpu);
}

static void verify_round(struct test_vm **vms, u32 density)
{
	s64 page;
	int i;

	zap_all();
	for (i = 0; vms[i]; i++)
		access_some(vms[i], density);

	for (i = 0; i < 16; i++) {
		page = kvm_random_u32(&rng) % (mem_pages + BITS_PER_LONG);
		age_and_verify(page - BITS_PER_LONG, random_mask());
	}
	/* What is left, and that nothing is left then. */
	for (i = 0; i < 2; i++) {
		for (page = -BITS_PER_LONG; page < (s64)mem_pages; page += BITS_PER_LONG)
			age_and_verify(page, ~0ul);
	}
}

static void create_vm(struct test_vm *t, const struct slot *slots)
{
	int i;

	memset(t, 0, sizeof(*t));
	t->slots = slots;
	t->vm = vm_create_with_one_vcpu(&t->vcpu, guest_code);
	t->guest_slots = addr_gva2hva(t->vm, (gva_t)guest_slots);
	sync_global_to_guest(t->vm, page_size);

	for (i = 0; slots[i].nr; i++) {
		u64 size = align_up(slots[i].nr * page_size, t->vm->page_size);
		u64 gpa = SLOT_GPA(slots[i].gpa_idx);

		vm_set_user_memory_region(t->vm, FIRST_SLOT + i, 0, gpa,
					  slots[i].nr * page_size,
					  mem + slots[i].first * page_size);
		virt_map(t->vm, SLOT_GVA(i), gpa, size / t->vm->page_size);
		t->guest_slots[i].gva = SLOT_GVA(i);
		t->guest_slots[i].nr_pages = slots[i].nr;
	}
}

static void map_small_pages(u64 nr)
{
	mem_pages = nr;
	mem = kvm_mmap(mem_pages * page_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(!madvise(mem, mem_pages * page_size, MADV_NOHUGEPAGE), "madvise: %s",
		    strerror(errno));
	memset(mem, 1, mem_pages * page_size);
}

static void test_small_pages(int rounds)
{
	struct test_vm vm, other, *vms[] = { &vm, &other, NULL };
	int i;

	map_small_pages(NR_PAGES);

	create_vm(&vm, small_slots);
	create_vm(&other, shared_slots);
	for (i = 0; i < rounds; i++)
		verify_round(vms, 1 << (i % 4));

	/* One subscriber less. */
	kvm_vm_free(other.vm);
	vms[1] = NULL;
	for (i = 0; i < rounds; i++)
		verify_round(vms, 1 << (i % 4));
	kvm_vm_free(vm.vm);

	/* None at all. */
	age_and_verify(0, ~0ul);
	munmap(mem, mem_pages * page_size);
}

/* Shadow paging maps huge pages of the host in pieces, as guest page tables do. */
static bool maps_huge_pages(struct test_vm *t)
{
#ifdef __x86_64__
	u64 before;

	zap_all();
	before = vm_get_stat(t->vm, pages_2m);
	access_some(t, 1);
	return vm_get_stat(t->vm, pages_2m) >= before + NR_HUGE_PAGES;
#else
	return page_size == SZ_4K;
#endif
}

static void test_huge_pages(int rounds)
{
	const u64 huge_pages = SZ_2M / page_size;
	const struct slot slots[] = {
		{ .first = 0,			.nr = 2 * huge_pages,	.gpa_idx = 1 },
		{ .first = 2 * huge_pages,	.nr = 2 * huge_pages,	.gpa_idx = 0 },
		{ },
	};
	struct test_vm vm, *vms[] = { &vm, NULL };
	int i;

	mem_pages = NR_HUGE_PAGES * huge_pages;
	mem = mmap(NULL, mem_pages * page_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
	if (mem == MAP_FAILED) {
		pr_info("Not testing huge pages, there are none: %s\n", strerror(errno));
		return;
	}
	memset(mem, 1, mem_pages * page_size);

	create_vm(&vm, slots);
	group_pages = maps_huge_pages(&vm) ? huge_pages : 1;
	printf("pages_aged_together=%lu\n", group_pages);
	for (i = 0; i < rounds; i++)
		verify_round(vms, i % 2 ? 8 : 2 * huge_pages);

	group_pages = 1;
	kvm_vm_free(vm.vm);
	munmap(mem, mem_pages * page_size);
}

static void *vcpu_worker(void *vcpu)
{
	run_guest(vcpu);
	return NULL;
}

static void test_faulting_vcpu(int rounds)
{
	static const struct slot slots[] = {
		{ .first = 0,	.nr = BITS_PER_LONG,	.gpa_idx = 0 },
		{ },
	};
	unsigned long *log = bitmap_zalloc(BITS_PER_LONG), reported;
	struct test_vm t;
	pthread_t thread;
	u64 *passes, before;
	int i, nr_during = 0;

	TEST_ASSERT(log, "No memory");
	map_small_pages(BITS_PER_LONG);

	create_vm(&t, slots);
	passes = addr_gva2hva(t.vm, (gva_t)&nr_passes);
	vm_set_user_memory_region(t.vm, FIRST_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
				  SLOT_GPA(0), mem_pages * page_size, mem);

	/* If the CPUs are busy with other things, the vCPU may be done each time. */
	for (i = 0; i < rounds || !nr_during; i++) {
		memset(t.guest_slots[0].accesses, ACCESS_WRITE, BITS_PER_LONG);
		run_guest(t.vcpu);
		/* Write-protects the pages, and flushes TLBs. */
		kvm_vm_get_dirty_log(t.vm, FIRST_SLOT, log);
		memset(t.guest_slots[0].accesses, ACCESS_READ, BITS_PER_LONG);
		run_guest(t.vcpu);

		memset(t.guest_slots[0].accesses, ACCESS_WRITE, BITS_PER_LONG);
		memset(mem, 1, page_size);
		before = READ_ONCE(*passes);
		kvm_pthread_create(&thread, NULL, vcpu_worker, t.vcpu);
		/* It writes 0 to the first page. */
		while (READ_ONCE(*(u64 *)mem) != 0 && READ_ONCE(*passes) == before)
			;
		reported = age(0, ~0ul);
		nr_during += READ_ONCE(*passes) == before;
		kvm_pthread_join(thread, NULL);

		TEST_ASSERT(reported == ~0ul,
			    "Pages %lx were read, and not aged since, but aren't young",
			    ~reported);
	}
	printf("aged_while_faulting=%d\n", nr_during);

	kvm_vm_free(t.vm);
	munmap(mem, mem_pages * page_size);
	free(log);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-n rounds] [-r seed]\n", name);
	puts("");
	printf(" -n: number of rounds of each part (default: 40)\n");
	printf(" -r: seed of the random choices (default: 1)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	int opt, rounds = 40;
	u32 seed = 1;

	while ((opt = getopt(argc, argv, "hn:r:")) != -1) {
		switch (opt) {
		case 'n':
			rounds = atoi_positive("Number of rounds", optarg);
			break;
		case 'r':
			seed = atoi_paranoid(optarg);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}

	door = open(CLEAR_YOUNG_MASKED, O_RDWR);
	__TEST_REQUIRE(door >= 0, "Can't open %s, needs CONFIG_TEST_MMU_NOTIFIER and root",
		       CLEAR_YOUNG_MASKED);
	page_size = getpagesize();
	rng = new_kvm_random_state(seed);

	test_small_pages(rounds);
	test_huge_pages(rounds);
	test_faulting_vcpu(rounds);

	close(door);
	return 0;
}

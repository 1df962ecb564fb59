// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that no write to a huge page is missed when its pages' bits are cleared in a
 * log that is initially set, and when logging is switched on.
 *
 * If the log is initially set, huge pages are write-protected only when their bits are
 * cleared.  KVM clears the log in words of 64 pages.  A memslot doesn't have to begin at a
 * multiple of 64 pages, i.e. a word can contain pages of two huge pages, and one
 * of them may have nothing but its first page in the word.  Clear the log word by
 * word, have the guest write the pages of the word, and only those, and verify
 * that all of them are dirty again.
 *
 * When logging is switched on, vCPUs go on running.  While it is, write one page of a
 * huge page, and have the huge page split by KVM_PRE_FAULT_MEMORY, i.e. by something
 * that isn't a write.  Verify that what is written afterwards is dirty.  With PML, one of
 * the two walks that KVM takes over SPTEs must not miss what the other relies on.
 *
 * What can't be tested: whether KVM write-protects more than it has to.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define NR_HUGE		4

static u64 guest_first, guest_nr;

static void guest_code(void)
{
	for (;;) {
		u64 page = READ_ONCE(guest_first), end = page + READ_ONCE(guest_nr);

		for (; page < end; page++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + page * PAGE_SIZE), page);
		GUEST_SYNC(0);
	}
}

/* Pages count from the first huge page, which may begin before the memslot. */
static void guest_write(struct kvm_vcpu *vcpu, u64 first, u64 nr)
{
	struct ucall uc;

	guest_first = first;
	guest_nr = nr;
	sync_global_to_guest(vcpu->vm, guest_first);
	sync_global_to_guest(vcpu->vm, guest_nr);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

struct memory {
	void *map, *mem;
	u64 huge, pages_per_huge, nr_pages, skip;
};

static void set_memslot(struct kvm_vm *vm, struct memory *m, u32 flags)
{
	vm_set_user_memory_region(vm, TEST_SLOT, flags, TEST_GPA + m->skip * PAGE_SIZE,
				  m->nr_pages * PAGE_SIZE, m->mem + m->skip * PAGE_SIZE);
}

/*
 * Add a memslot that leaves out the first @skip pages of NR_HUGE huge pages, and have
 * @vcpu write one page of each.
 */
static struct memory add_memory(struct kvm_vm *vm, struct kvm_vcpu *vcpu, u64 skip)
{
	u64 huge = get_trans_hugepagesz(), pages_per_huge = huge / PAGE_SIZE, i;
	struct memory m = {
		.huge = huge,
		.pages_per_huge = pages_per_huge,
		.nr_pages = NR_HUGE * pages_per_huge - skip,
		.skip = skip,
	};

	/*
	 * The library aligns a memslot's memory and its GPA in the same way, but
	 * KVM uses huge pages as long as they are congruent.
	 */
	m.map = kvm_mmap((NR_HUGE + 1) * huge, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1);
	m.mem = (void *)align_up((unsigned long)m.map, huge);
	TEST_ASSERT(!madvise(m.mem, NR_HUGE * huge, MADV_HUGEPAGE), "MADV_HUGEPAGE failed");
	memset(m.mem, 0, NR_HUGE * huge);

	set_memslot(vm, &m, 0);
	/* Huge pages in the guest, too, KVM can't use them for shadow paging otherwise. */
	for (i = 0; i < NR_HUGE; i++)
		__virt_pg_map(vm, &vm->mmu, TEST_GVA + i * huge, TEST_GPA + i * huge, PG_LEVEL_2M);

	for (i = 0; i < NR_HUGE; i++)
		guest_write(vcpu, i * pages_per_huge + skip, 1);
	__TEST_REQUIRE(vm_get_stat(vm, pages_2m) >= NR_HUGE - !!skip,
		       "Got only %lu huge pages, THP may be off, or memory fragmented",
		       vm_get_stat(vm, pages_2m));
	return m;
}

static void free_memory(struct memory *m)
{
	kvm_munmap(m->map, (NR_HUGE + 1) * m->huge);
}

static void test_clear(u64 skip)
{
	u64 missed = 0, first, i, in_huge;
	unsigned long *bitmap;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct memory m;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	m = add_memory(vm, vcpu, skip);
	bitmap = bitmap_zalloc(m.nr_pages);
	set_memslot(vm, &m, KVM_MEM_LOG_DIRTY_PAGES);

	for (first = 0; first < m.nr_pages; first += 64) {
		u64 nr = min(64ul, m.nr_pages - first);

		bitmap_fill(bitmap, m.nr_pages);
		kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, first, nr);
		guest_write(vcpu, first + skip, nr);
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		for (i = first; i < first + nr; i++) {
			if (test_bit(i, bitmap))
				continue;
			in_huge = (i + skip) % m.pages_per_huge;
			if (missed++ < 4)
				pr_info("Skipping %lu: write to page %lu, %lu of its huge page, missed\n",
					skip, i, in_huge);
		}
	}
	printf("skip=%lu missed=%lu\n", skip, missed);
	TEST_ASSERT(!missed, "%lu of %lu writes were not logged (skip=%lu)",
		    missed, m.nr_pages, skip);

	kvm_vm_free(vm);
	free_memory(&m);
	free(bitmap);
}

struct enabler {
	struct kvm_vm *vm;
	struct memory *m;
};

static void *enable_logging(void *arg)
{
	struct enabler *e = arg;

	set_memslot(e->vm, e->m, KVM_MEM_LOG_DIRTY_PAGES);
	return NULL;
}

/* Write to a huge page, and split it, @delay microseconds after logging is switched on. */
static void test_enable(useconds_t delay)
{
	struct kvm_pre_fault_memory range = { .gpa = TEST_GPA, .size = PAGE_SIZE };
	bool can_split = kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY);
	u64 missed = 0, i;
	struct kvm_vcpu *vcpus[2];
	unsigned long *bitmap;
	struct enabler e;
	struct kvm_vm *vm;
	struct memory m;
	pthread_t thread;

	vm = vm_create_with_vcpus(ARRAY_SIZE(vcpus), guest_code, vcpus);
	m = add_memory(vm, vcpus[0], 0);
	bitmap = bitmap_zalloc(m.nr_pages);
	e = (struct enabler) { .vm = vm, .m = &m };

	kvm_pthread_create(&thread, NULL, enable_logging, &e);
	usleep(delay);
	/* The CPU may not look at D-bits of what the other vCPU has in its TLB. */
	guest_write(vcpus[1], 1, 1);
	/* Shadow paging can't, this isn't of interest there. */
	if (can_split)
		__vcpu_ioctl(vcpus[1], KVM_PRE_FAULT_MEMORY, &range);
	kvm_pthread_join(thread, NULL);

	guest_write(vcpus[0], 1, m.nr_pages - 1);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
	for (i = 1; i < m.nr_pages; i++)
		missed += !test_bit(i, bitmap);
	printf("delay=%u missed=%lu\n", delay, missed);
	TEST_ASSERT(!missed, "%lu of %lu writes were not logged (enable, delay=%u)",
		    missed, m.nr_pages - 1, delay);

	kvm_vm_free(vm);
	free_memory(&m);
	free(bitmap);
}

int main(void)
{
	u64 skip[] = { 0, 1, 2, 63, 64, 65, 511 };
	useconds_t delay[] = { 0, 100, 1000, 100000 };
	unsigned int i;

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
		     KVM_DIRTY_LOG_INITIALLY_SET);
	TEST_REQUIRE(thp_configured());
	if (get_kvm_param_bool("eager_page_split"))
		pr_info("Eager page splitting hides bugs in what is tested, better kvm.eager_page_split=N\n");

	for (i = 0; i < ARRAY_SIZE(skip); i++)
		test_clear(skip[i]);
	for (i = 0; i < ARRAY_SIZE(delay); i++)
		test_enable(delay[i]);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that no write to a huge page is missed if the dirty log is initially set,
 * i.e. if huge pages are write-protected only when their bits are cleared.
 *
 * KVM clears the log in words of 64 pages.  A memslot doesn't have to begin at a
 * multiple of 64 pages, i.e. a word can contain pages of two huge pages, and one
 * of them may have nothing but its first page in the word.  Clear the log word by
 * word, have the guest write the pages of the word, and only those, and verify
 * that all of them are dirty again.
 *
 * What can't be tested: whether KVM write-protects more than it has to.
 */
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

/* The memslot leaves out the first @skip pages of NR_HUGE huge pages. */
static void test_memslot(u64 skip)
{
	u64 huge = get_trans_hugepagesz(), pages_per_huge = huge / PAGE_SIZE;
	u64 nr_pages = NR_HUGE * pages_per_huge - skip, missed = 0, first, i, in_huge;
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *mem, *map;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);

	/*
	 * The library aligns a memslot's memory and its GPA in the same way, but
	 * KVM uses huge pages as long as they are congruent.
	 */
	map = kvm_mmap((NR_HUGE + 1) * huge, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mem = (void *)align_up((unsigned long)map, huge);
	TEST_ASSERT(!madvise(mem, NR_HUGE * huge, MADV_HUGEPAGE), "MADV_HUGEPAGE failed");
	memset(mem, 0, NR_HUGE * huge);

	vm_set_user_memory_region(vm, TEST_SLOT, 0, TEST_GPA + skip * PAGE_SIZE,
				  nr_pages * PAGE_SIZE, mem + skip * PAGE_SIZE);
	/* Huge pages in the guest, too, KVM can't use them for shadow paging otherwise. */
	for (i = 0; i < NR_HUGE; i++)
		__virt_pg_map(vm, &vm->mmu, TEST_GVA + i * huge, TEST_GPA + i * huge, PG_LEVEL_2M);

	for (i = 0; i < NR_HUGE; i++)
		guest_write(vcpu, i * pages_per_huge + skip, 1);
	__TEST_REQUIRE(vm_get_stat(vm, pages_2m) >= NR_HUGE - !!skip,
		       "Got only %lu huge pages, THP may be off, or memory fragmented",
		       vm_get_stat(vm, pages_2m));

	vm_set_user_memory_region(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES,
				  TEST_GPA + skip * PAGE_SIZE, nr_pages * PAGE_SIZE,
				  mem + skip * PAGE_SIZE);

	for (first = 0; first < nr_pages; first += 64) {
		u64 nr = min(64ul, nr_pages - first);

		bitmap_fill(bitmap, nr_pages);
		kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, first, nr);
		guest_write(vcpu, first + skip, nr);
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		for (i = first; i < first + nr; i++) {
			if (test_bit(i, bitmap))
				continue;
			in_huge = (i + skip) % pages_per_huge;
			if (missed++ < 4)
				pr_info("Skipping %lu: write to page %lu, %lu of its huge page, missed\n",
					skip, i, in_huge);
		}
	}
	printf("skip=%lu missed=%lu\n", skip, missed);
	TEST_ASSERT(!missed, "%lu of %lu writes were not logged (skip=%lu)",
		    missed, nr_pages, skip);

	kvm_vm_free(vm);
	kvm_munmap(map, (NR_HUGE + 1) * huge);
	free(bitmap);
}

int main(void)
{
	u64 skip[] = { 0, 1, 2, 63, 64, 65, 511 };
	unsigned int i;

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
		     KVM_DIRTY_LOG_INITIALLY_SET);
	TEST_REQUIRE(thp_configured());
	if (get_kvm_param_bool("eager_page_split"))
		pr_info("Eager page splitting hides bugs in what is tested, better kvm.eager_page_split=N\n");

	for (i = 0; i < ARRAY_SIZE(skip); i++)
		test_memslot(skip[i]);
	return 0;
}

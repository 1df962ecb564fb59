// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a transparent huge page is in use if a guest uses any page of it.
 *
 * The primary MMU ages a huge page as a whole, and so it asks KVM about all of it, even
 * if a memslot has only a few of its pages, or has it at a gfn that isn't aligned, in
 * which case KVM maps it by small pages.  Mark the huge page idle, have the guest write
 * the last page of the memslot, and nothing else, and verify that the huge page isn't
 * idle anymore.
 *
 * What can't be tested: that KVM doesn't WARN about what it is asked, see the kernel's log.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "page_idle.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define NR_ROUNDS	3

/* Shared with the guest. */
static u64 page_size;
static u64 nr_pages;
static bool last_only;

/* Of the huge page, the page that the primary MMU goes by. */
static u64 pfn;
static int idle_fd;

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = READ_ONCE(last_only) ? nr_pages - 1 : 0; page < nr_pages; page++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + page * page_size), page);
		GUEST_SYNC(0);
	}
}

static void run_guest(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static bool is_idle(void)
{
	return read_page_idle(idle_fd, pfn / PAGE_IDLE_BITS) & BIT_ULL(pfn % PAGE_IDLE_BITS);
}

/*
 * KVM doesn't flush TLBs when it ages pages.  It does when the dirty log is cleared, which
 * is all that the log is for.  The guest has written the last page.
 */
static void flush_tlbs(struct kvm_vm *vm, unsigned long *log)
{
	u64 host_pages = nr_pages * page_size / getpagesize();

	kvm_vm_get_dirty_log(vm, TEST_SLOT, log);
	TEST_ASSERT(test_bit(host_pages - 1, log), "The guest wrote the last page");
	kvm_vm_clear_dirty_log(vm, TEST_SLOT, log, 0, host_pages);
}

/* A memslot with memory from the huge page. */
static void test_memslot(const char *name, void *mem, u64 size, gpa_t gpa)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	unsigned long *log = bitmap_zalloc(size / getpagesize());
	int round;

	TEST_ASSERT(log, "No memory");
	vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	page_size = vm->page_size;
	nr_pages = size / page_size;
	last_only = false;
	vm_set_user_memory_region(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES, gpa, size, mem);
	virt_map(vm, TEST_GVA, gpa, nr_pages);
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, nr_pages);
	sync_global_to_guest(vm, last_only);

	/* Have all of it mapped, in small pages, as it is logged. */
	run_guest(vcpu);
	last_only = true;
	sync_global_to_guest(vm, last_only);

	for (round = 0; round < NR_ROUNDS; round++) {
		write_page_idle(idle_fd, pfn / PAGE_IDLE_BITS, BIT_ULL(pfn % PAGE_IDLE_BITS));
		flush_tlbs(vm, log);
		TEST_ASSERT(is_idle(), "%s: nobody uses the huge page, but it isn't idle", name);

		run_guest(vcpu);
		TEST_ASSERT(!is_idle(), "%s: the guest uses the huge page, but it is idle", name);
	}
	printf("memslot=%s rounds=%d\n", name, round);

	free(log);
	kvm_vm_free(vm);
}

/* The pages of a huge page are contiguous, and begin with an aligned one. */
static bool is_huge(void *mem, u64 size)
{
	u64 last;

	look_up_pfns(mem, getpagesize(), 1, &pfn);
	look_up_pfns(mem + size - getpagesize(), getpagesize(), 1, &last);
	return !(pfn % (size / getpagesize())) && last == pfn + size / getpagesize() - 1;
}

int main(void)
{
	u64 huge, part;
	void *mem;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
	TEST_REQUIRE(thp_configured());
	idle_fd = open_page_idle();

	huge = get_trans_hugepagesz();
	mem = kvm_mmap(2 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mem = (void *)align_up((unsigned long)mem, huge);
	TEST_ASSERT(!madvise(mem, huge, MADV_HUGEPAGE), "madvise: %s", strerror(errno));
	memset(mem, 1, huge);
	__TEST_REQUIRE(is_huge(mem, huge), "No huge page to be had");

	/* A multiple of any page size that host and guest can have, in the middle. */
	part = 16 * SZ_64K;
	test_memslot("part", mem + huge / 2, min(part, huge / 4), TEST_GPA);
	test_memslot("misaligned", mem, huge, TEST_GPA + SZ_64K);

	close(idle_fd);
	return 0;
}

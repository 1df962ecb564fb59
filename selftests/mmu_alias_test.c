// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM keeps track of which gfn a guest's page tables map, if two gfns share
 * a page of the host.
 *
 * Two memslots have the same memory, the first is read-only.  The guest reads the page
 * by means of the first, re-points its PTE to the second, without INVLPG, and writes.
 * As the first can't be written, it is the second's page that is written from then on.
 * Verify that
 *  - all writes are in the second's dirty log, also when the log was read in between;
 *  - writes go to the second's new page when the host replaces its page.
 *
 * This is about shadow paging, where KVM has to find out.  With TDP, hardware walks the
 * guest's page tables, and the test can't but pass.
 *
 * What can't be tested: reads, and writes if both memslots are writable, as a TLB may
 * still translate to the first gfn until INVLPG.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT_A		10
#define SLOT_B		11
#define GPA_A		((gpa_t)SZ_4G)
#define GPA_B		((gpa_t)SZ_4G + SZ_1G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul

enum stage {
	READ_A,
	WROTE_B,
	WROTE_B_AGAIN,
	WROTE_NEW_B,
};

/* Set by the host: where the guest finds the PTE, and what to write to it. */
static u64 *guest_pte;
static u64 guest_pte_b;

static u64 *guest_mem = (u64 *)TEST_GVA;

static void guest_code(void)
{
	GUEST_ASSERT_EQ(READ_ONCE(*guest_mem), 1);
	GUEST_SYNC(READ_A);

	/* No INVLPG: no TLB can have the page writable. */
	WRITE_ONCE(*guest_pte, guest_pte_b);
	WRITE_ONCE(*guest_mem, 2);
	GUEST_SYNC(WROTE_B);

	WRITE_ONCE(*guest_mem, 3);
	GUEST_SYNC(WROTE_B_AGAIN);

	/* The host has replaced the page. */
	WRITE_ONCE(*guest_mem, 4);
	GUEST_SYNC(WROTE_NEW_B);
}

static u64 run_until_sync(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return uc.args[1];
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
	}
	return -1;
}

/* The log is read, i.e. also cleared. */
static bool is_dirty(struct kvm_vm *vm)
{
	unsigned long bitmap[1] = {};

	kvm_vm_get_dirty_log(vm, SLOT_B, bitmap);
	return bitmap[0];
}

static u64 *map_memory(int fd)
{
	return kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

int main(void)
{
	bool logged, logged_again;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 *mem_a, *mem_b, *pte;
	int fd;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	fd = kvm_memfd_alloc(PAGE_SIZE, false);
	mem_a = map_memory(fd);
	mem_b = map_memory(fd);
	vm_set_user_memory_region(vm, SLOT_A, KVM_MEM_READONLY, GPA_A, PAGE_SIZE, mem_a);
	vm_set_user_memory_region(vm, SLOT_B, KVM_MEM_LOG_DIRTY_PAGES, GPA_B, PAGE_SIZE, mem_b);

	virt_map(vm, TEST_GVA, GPA_A, 1);
	pte = vm_get_pte(vm, TEST_GVA);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	guest_pte_b = (*pte & ~PHYSICAL_PAGE_MASK) | GPA_B;
	sync_global_to_guest(vm, guest_pte);
	sync_global_to_guest(vm, guest_pte_b);

	*mem_a = 1;
	TEST_ASSERT_EQ(run_until_sync(vcpu), READ_A);
	TEST_ASSERT_EQ(run_until_sync(vcpu), WROTE_B);
	logged = is_dirty(vm);
	TEST_ASSERT_EQ(run_until_sync(vcpu), WROTE_B_AGAIN);
	logged_again = is_dirty(vm);
	TEST_ASSERT_EQ(*mem_a, 3);

	TEST_ASSERT(mmap(mem_b, PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == mem_b,
		    "Can't replace the page");
	TEST_ASSERT_EQ(run_until_sync(vcpu), WROTE_NEW_B);

	printf("logged=%d logged_again=%d old_page=%lu new_page=%lu\n", logged, logged_again,
	       *mem_a, *mem_b);
	TEST_ASSERT(logged, "The write after the PTE was changed is not in the log");
	TEST_ASSERT(logged_again, "The write after the log was read is not in the log");
	TEST_ASSERT(*mem_a == 3, "The guest wrote a page that the host has replaced");
	TEST_ASSERT(*mem_b == 4, "The guest did not write the page that replaced it");

	kvm_vm_free(vm);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify faults on shadow pages that KVM handles with mmu_lock held for read, i.e. while other
 * vCPUs fault as well, if kvm.shared_shadow_faults is on:
 *
 *  - vCPUs that populate the same memory read what was written, and their faults are handled that
 *    way.  If KVM uses the TDP MMU, the guest is nested.
 *  - A fault doesn't install what the guest's PTE was before another vCPU changed it and executed
 *    INVLPG.  With shadow paging alone.
 *  - The host unmaps pages meanwhile: what vCPUs wrote to a gfn through two addresses is
 *    one page.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_param.h"
#include "kvm_util.h"
#include "nested_x86.h"
#include "processor.h"
#include "run_until.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
/* A second address of the same memory. */
#define ALIAS_GVA	0xd0000000ul
/* What they are to a nested guest, whose hypervisor maps both to TEST_GPA. */
#define L2_GPA		((gpa_t)SZ_4G * 2)
#define L2_ALIAS_GPA	((gpa_t)SZ_4G * 3)
#define PTE_GVA		0x100000000ul

#define NR_VCPUS	3
#define NR_PAGES	1024
#define NR_ROUNDS	2000
#define NR_UNMAPS	100

/* Set by the host. */
static u64 *guest_pte;
static u64 guest_ptes[2];
/* Between the vCPUs. */
static u64 ready;
static u64 rounds[NR_VCPUS];
static bool stop;

static u64 *page_at(u64 base, u64 page)
{
	return (u64 *)(base + page * PAGE_SIZE);
}

/* Each vCPU has a word in each page. */
static void populate_code(u32 vcpu)
{
	u64 page, base, value;

	__sync_fetch_and_add(&ready, 1);
	while (READ_ONCE(ready) < NR_VCPUS)
		cpu_relax();

	for (page = 0; page < NR_PAGES; page++) {
		value = page << 8 | vcpu;
		base = (page + vcpu) % 2 ? ALIAS_GVA : TEST_GVA;
		WRITE_ONCE(page_at(base, page)[vcpu], value);
	}
	for (page = 0; page < NR_PAGES; page++) {
		value = page << 8 | vcpu;
		GUEST_ASSERT_EQ(READ_ONCE(page_at(TEST_GVA, page)[vcpu]), value);
		GUEST_ASSERT_EQ(READ_ONCE(page_at(ALIAS_GVA, page)[vcpu]), value);
	}
	GUEST_DONE();
}

static void l1_populate_code(u32 vcpu, void *nested)
{
	enter_l2(populate_code, vcpu, nested);
}

/*
 * Writes through one address must be seen through the other one, whatever is unmapped.  vCPUs
 * begin with different ones, so that KVM adds both to the gfn's rmap at a time.
 */
static void alias_code(u32 vcpu)
{
	u64 first = vcpu % 2 ? TEST_GVA : ALIAS_GVA;
	u64 second = vcpu % 2 ? ALIAS_GVA : TEST_GVA;
	u64 nr, page;

	for (nr = 1; !READ_ONCE(stop); nr++) {
		page = nr % 8;
		WRITE_ONCE(page_at(first, page)[vcpu], nr);
		/* If the page was unmapped meanwhile, both are another page. */
		if (READ_ONCE(page_at(second, page)[vcpu]) != nr)
			GUEST_ASSERT_NE(READ_ONCE(page_at(first, page)[vcpu]), nr);
		WRITE_ONCE(rounds[vcpu], nr);
	}
	GUEST_DONE();
}

static void l1_alias_code(u32 vcpu, void *nested)
{
	enter_l2(alias_code, vcpu, nested);
}

/* All but vCPU 0 fault on the page whose PTE vCPU 0 changes. */
static void invlpg_code(u32 vcpu)
{
	u64 nr;

	if (vcpu) {
		while (!READ_ONCE(stop)) {
			READ_ONCE(*page_at(TEST_GVA, 0));
			/* Others of the same page table, lest it all be about one SPTE. */
			READ_ONCE(*page_at(TEST_GVA, 1 + vcpu));
		}
		GUEST_DONE();
	}

	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		WRITE_ONCE(*guest_pte, guest_ptes[nr % 2]);
		invlpg(TEST_GVA);
		if (READ_ONCE(*page_at(TEST_GVA, 0)) != nr % 2)
			break;
	}
	WRITE_ONCE(stop, true);
	GUEST_ASSERT_EQ(nr, NR_ROUNDS + 1);
	GUEST_DONE();
}

static void *run_vcpu(void *vcpu)
{
	run_until(vcpu, UCALL_DONE);
	return NULL;
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpus, void *code, void *l1_code)
{
	bool nested = l1_code && kvm_is_tdp_enabled() && get_kvm_param_bool("tdp_mmu");
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, 0);
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		vcpus[i] = vm_vcpu_add(vm, i, nested ? l1_code : code);
		vcpu_args_set(vcpus[i], 1, i);
	}
	kvm_arch_vm_finalize_vcpus(vm);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES, 0);
	/* Huge pages would leave few faults. */
	madvise(addr_gpa2hva(vm, TEST_GPA), NR_PAGES * PAGE_SIZE, MADV_NOHUGEPAGE);
	virt_map(vm, TEST_GVA, nested ? L2_GPA : TEST_GPA, NR_PAGES);
	virt_map(vm, ALIAS_GVA, nested ? L2_ALIAS_GPA : TEST_GPA, NR_PAGES);
	ready = 0;
	stop = false;
	sync_global_to_guest(vm, ready);
	sync_global_to_guest(vm, stop);

	if (nested) {
		vm_enable_tdp(vm);
		for (i = 0; i < NR_VCPUS; i++)
			vcpu_args_set(vcpus[i], 2, i, vcpu_alloc_nested(vm));
		tdp_map(vm, L2_GPA, TEST_GPA, NR_PAGES * PAGE_SIZE);
		tdp_map(vm, L2_ALIAS_GPA, TEST_GPA, NR_PAGES * PAGE_SIZE);
		/* Last, as only pages that are in use are mapped. */
		tdp_identity_map_default_memslots(vm);
	}
	return vm;
}

static void start_vcpus(struct kvm_vcpu **vcpus, pthread_t *threads)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		kvm_pthread_create(&threads[i], NULL, run_vcpu, vcpus[i]);
}

static void report(const char *what, struct kvm_vcpu **vcpus, u64 *shared, u64 *again)
{
	int i;

	*shared = 0;
	*again = 0;
	for (i = 0; i < NR_VCPUS; i++) {
		*shared += vcpu_get_stat(vcpus[i], pf_shared);
		*again += vcpu_get_stat(vcpus[i], pf_again);
	}
	printf("%s: %lu faults with mmu_lock held for read, %lu tried to\n", what,
	       (unsigned long)*shared, (unsigned long)*again);
}

static void test_populate(void)
{
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t threads[NR_VCPUS];
	struct kvm_vm *vm;
	u64 shared, again;
	int i;

	vm = create_vm(vcpus, populate_code, l1_populate_code);
	start_vcpus(vcpus, threads);
	for (i = 0; i < NR_VCPUS; i++)
		kvm_pthread_join(threads[i], NULL);

	report("populate", vcpus, &shared, &again);
	/* Prefetching leaves few faults, and, without A/D bits, SPTEs that aren't accessible. */
	TEST_ASSERT(shared >= NR_PAGES / 16, "Of %d pages, %lu took mmu_lock for read",
		    NR_PAGES, (unsigned long)shared);
	kvm_vm_free(vm);
}

static u64 sum_rounds(u64 *rounds)
{
	u64 sum = 0;
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		sum += READ_ONCE(rounds[i]);
	return sum;
}

static void test_alias(void)
{
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t threads[NR_VCPUS];
	struct kvm_vm *vm;
	u64 shared, again, sum, last = 0;
	u64 *guest_rounds;
	int i, unmaps = 0;
	bool *guest_stop;
	void *mem;

	vm = create_vm(vcpus, alias_code, l1_alias_code);
	mem = addr_gpa2hva(vm, TEST_GPA);
	guest_rounds = addr_gva2hva(vm, (gva_t)rounds);
	guest_stop = addr_gva2hva(vm, (gva_t)&stop);
	start_vcpus(vcpus, threads);
	while (unmaps < NR_UNMAPS) {
		/* Faults that take longer than this must end, too. */
		sum = sum_rounds(guest_rounds);
		if (sum != last) {
			madvise(mem, 8 * PAGE_SIZE, MADV_DONTNEED);
			unmaps++;
		}
		last = sum;
		usleep(100);
	}
	WRITE_ONCE(*guest_stop, true);
	for (i = 0; i < NR_VCPUS; i++)
		kvm_pthread_join(threads[i], NULL);

	report("alias", vcpus, &shared, &again);
	TEST_ASSERT(shared, "No fault held mmu_lock for read");
	kvm_vm_free(vm);
}

static void test_invlpg(void)
{
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t threads[NR_VCPUS];
	struct kvm_vm *vm;
	u64 shared, again;
	u64 *pte;
	int i;

	vm = create_vm(vcpus, invlpg_code, NULL);
	*(u64 *)addr_gpa2hva(vm, TEST_GPA + (NR_PAGES - 1) * PAGE_SIZE) = 1;
	pte = vm_get_pte(vm, TEST_GVA);
	guest_ptes[0] = *pte | PTE_ACCESSED_MASK(&vm->mmu) | PTE_DIRTY_MASK(&vm->mmu);
	guest_ptes[1] = (guest_ptes[0] & ~PHYSICAL_PAGE_MASK) |
			(TEST_GPA + (NR_PAGES - 1) * PAGE_SIZE);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	sync_global_to_guest(vm, guest_ptes);
	sync_global_to_guest(vm, guest_pte);

	start_vcpus(vcpus, threads);
	for (i = 0; i < NR_VCPUS; i++)
		kvm_pthread_join(threads[i], NULL);
	report("INVLPG", vcpus, &shared, &again);
	TEST_ASSERT(shared, "No fault held mmu_lock for read");
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	int opt;

	while ((opt = getopt(argc, argv, "h")) != -1) {
		printf("usage: %s\n", argv[0]);
		exit(opt == 'h' ? 0 : 1);
	}

	if (kvm_is_tdp_enabled() && get_kvm_param_bool("tdp_mmu"))
		TEST_REQUIRE(kvm_cpu_has_tdp());
	__TEST_REQUIRE(can_set_kvm_param("shared_shadow_faults"),
		       "KVM has no parameter shared_shadow_faults, or it isn't ours to set");
	set_kvm_param(true);

	test_populate();
	test_alias();
	if (!kvm_is_tdp_enabled())
		test_invlpg();
	return 0;
}

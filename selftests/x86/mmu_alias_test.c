// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM keeps track of which gfn a guest's page tables map, if two gfns share
 * a page of the host: because two memslots have the same memory, or the zero page, or
 * memory that KSM has merged.
 *
 * Two memslots have the same memory, the first is read-only.  The guest reads the page
 * by means of the first, re-points its PTE to the second, without INVLPG, and writes.
 * As the first can't be written, it is the second's page that is written from then on.
 * Verify that
 *  - all writes are in the second's dirty log, also when the log was read in between;
 *  - writes go to the second's new page when the host replaces its page.
 *
 * Two other memslots have memory that nobody has written yet.  The guest reads the first,
 * whose PTE is not executable, re-points the PTE to the second, executable, and calls the
 * page: zeros, as instructions, lead to the next page, which returns.  The host writes
 * instructions to the second.  Verify that the guest executes these.  Do the same with
 * instructions that KSM has merged, if KSM runs, or may be run for that (-k), and gets to
 * merge them in time.
 *
 * This is about shadow paging, where KVM has to find out.  With TDP, hardware walks the
 * guest's page tables, and may well have it take a page fault that only INVLPG ends.
 *
 * What can't be tested: accesses that the first PTE permits, too, as a TLB may still
 * translate to the first gfn until INVLPG.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
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
#define SLOT_C		12
#define SLOT_D		13
#define GPA_C		((gpa_t)SZ_4G * 2)
#define GPA_D		((gpa_t)SZ_4G * 2 + SZ_1G)
/* The pages to call, and the ones next to them, with the same page table. */
#define CALL_GVA(i)	(TEST_GVA + (16 + 2 * (i)) * PAGE_SIZE)

#define KSM_DIR		"/sys/kernel/mm/ksm/"
#define KSM_SECONDS	10

enum stage {
	READ_A,
	WROTE_B,
	WROTE_B_AGAIN,
	WROTE_NEW_B,
	CALLED_SHARED,
	CALLED_CODE,
};

/* What the gfns of C and D with the same index share. */
enum shared {
	ZERO_PAGE,
	KSM_PAGE,
	NR_SHARED,
};

/* Set by the host: where the guest finds the PTE, and what to write to it. */
static u64 *guest_pte;
static u64 guest_pte_b;
static u64 *guest_call_pte[NR_SHARED];
static u64 guest_pte_d[NR_SHARED];
static int nr_shared = NR_SHARED;

static u64 *guest_mem = (u64 *)TEST_GVA;

/* What the code returns in ECX, 0 for zeros: "add %al, (%rax)". */
static u64 call_page(int i)
{
	static u64 scratch;
	u64 ret = 0;

	/* Step over the red zone, of whose use the compiler knows, but not of the call. */
	asm volatile("sub $128, %%rsp; call *%[code]; add $128, %%rsp" : "+c"(ret) :
		     [code] "r"(CALL_GVA(i)), "a"(&scratch) : "cc", "memory");
	return ret;
}

static void guest_code(void)
{
	int i;

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

	for (i = 0; i < nr_shared; i++) {
		/* No INVLPG: no TLB can have the page executable. */
		READ_ONCE(*(u64 *)CALL_GVA(i));
		WRITE_ONCE(*guest_call_pte[i], guest_pte_d[i]);
		GUEST_SYNC_ARGS(CALLED_SHARED, call_page(i), 0, 0, 0);

		/* The host has written the page. */
		GUEST_SYNC_ARGS(CALLED_CODE, call_page(i), 0, 0, 0);
	}
}

/* Returns what the guest tells along with the stage. */
static u64 run_until_sync(struct kvm_vcpu *vcpu, enum stage stage)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], stage);
		return uc.args[2];
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

/* -1 if there is none. */
static s64 read_number(const char *path)
{
	FILE *f = fopen(path, "r");
	s64 number = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &number) != 1)
		number = -1;
	fclose(f);
	return number;
}

static bool set_ksm_run(s64 run)
{
	FILE *f = fopen(KSM_DIR "run", "w");

	if (!f) {
		/* Lest an assertion that fails later is taken for a lack of privileges. */
		errno = 0;
		return false;
	}
	fprintf(f, "%ld", run);
	return !fclose(f);
}

static s64 ksm_was_run;

static void restore_ksm_run(void)
{
	set_ksm_run(ksm_was_run);
}

static bool ksm_runs(bool may_start)
{
	ksm_was_run = read_number(KSM_DIR "run");
	if (ksm_was_run == 1 || !may_start)
		return ksm_was_run == 1;
	atexit(restore_ksm_run);
	return set_ksm_run(1);
}

/*
 * Have KSM merge two pages.  How long that takes is up to how much else there is to scan,
 * and how fast KSM was told to be.
 */
static bool merge_pages(void *a, void *b)
{
	struct timespec start;

	if (madvise(a, PAGE_SIZE, MADV_MERGEABLE) || madvise(b, PAGE_SIZE, MADV_MERGEABLE))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (read_number("/proc/self/ksm_merging_pages") != 2) {
		if (timespec_elapsed(start).tv_sec >= KSM_SECONDS)
			return false;
		usleep(1000);
	}
	return true;
}

static void help(const char *name)
{
	printf("usage: %s [-h] [-k]\n", name);
	printf(" -k: run KSM if it isn't; as it was, at exit\n");
	exit(0);
}

int main(int argc, char **argv)
{
	/* mov $5, %ecx; ret */
	static const u8 merged_code[] = { 0xb9, 5, 0, 0, 0, 0xc3 };
	/* mov $7, %ecx; ret */
	static const u8 code[] = { 0xb9, 7, 0, 0, 0, 0xc3 };
	u64 called_shared[NR_SHARED], called_code[NR_SHARED];
	bool logged, logged_again;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 *mem_a, *mem_b, *pte;
	void *mem_c, *mem_d;
	bool start_ksm = false;
	int fd, i, opt;

	while ((opt = getopt(argc, argv, "hk")) != -1) {
		if (opt != 'k')
			help(argv[0]);
		start_ksm = true;
	}

	TEST_REQUIRE(!kvm_is_tdp_enabled());

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

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, GPA_C, SLOT_C, NR_SHARED, 0);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, GPA_D, SLOT_D, NR_SHARED, 0);
	mem_c = addr_gpa2hva(vm, GPA_C);
	mem_d = addr_gpa2hva(vm, GPA_D);

	memcpy(mem_c + KSM_PAGE * PAGE_SIZE, merged_code, sizeof(merged_code));
	memcpy(mem_d + KSM_PAGE * PAGE_SIZE, merged_code, sizeof(merged_code));
	if (!ksm_runs(start_ksm) ||
	    !merge_pages(mem_c + KSM_PAGE * PAGE_SIZE, mem_d + KSM_PAGE * PAGE_SIZE)) {
		printf("no KSM, or no time to wait for it\n");
		nr_shared = KSM_PAGE;
	}
	sync_global_to_guest(vm, nr_shared);

	for (i = 0; i < nr_shared; i++) {
		virt_map(vm, CALL_GVA(i), GPA_C + i * PAGE_SIZE, 1);
		pte = vm_get_pte(vm, CALL_GVA(i));
		guest_call_pte[i] = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
		guest_pte_d[i] = (*pte & ~PHYSICAL_PAGE_MASK) | (GPA_D + i * PAGE_SIZE);
		*pte |= PTE_NX_MASK(&vm->mmu);
	}
	virt_map(vm, CALL_GVA(ZERO_PAGE) + PAGE_SIZE, vm_phy_page_alloc(vm, 0, 0), 1);
	*(u8 *)addr_gva2hva(vm, CALL_GVA(ZERO_PAGE) + PAGE_SIZE) = 0xc3;
	sync_global_to_guest(vm, guest_call_pte);
	sync_global_to_guest(vm, guest_pte_d);

	*mem_a = 1;
	run_until_sync(vcpu, READ_A);
	run_until_sync(vcpu, WROTE_B);
	logged = is_dirty(vm);
	run_until_sync(vcpu, WROTE_B_AGAIN);
	logged_again = is_dirty(vm);
	TEST_ASSERT_EQ(*mem_a, 3);

	TEST_ASSERT(mmap(mem_b, PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == mem_b,
		    "Can't replace the page");
	run_until_sync(vcpu, WROTE_NEW_B);
	printf("logged=%d logged_again=%d old_page=%lu new_page=%lu\n", logged, logged_again,
	       *mem_a, *mem_b);

	for (i = 0; i < nr_shared; i++) {
		called_shared[i] = run_until_sync(vcpu, CALLED_SHARED);
		memcpy(mem_d + i * PAGE_SIZE, code, sizeof(code));
		called_code[i] = run_until_sync(vcpu, CALLED_CODE);
		printf("called_shared=%lu called_code=%lu\n", called_shared[i], called_code[i]);
	}

	TEST_ASSERT(logged, "The write after the PTE was changed is not in the log");
	TEST_ASSERT(logged_again, "The write after the log was read is not in the log");
	TEST_ASSERT(*mem_a == 3, "The guest wrote a page that the host has replaced");
	TEST_ASSERT(*mem_b == 4, "The guest did not write the page that replaced it");
	for (i = 0; i < nr_shared; i++) {
		TEST_ASSERT_EQ(called_shared[i], i == KSM_PAGE ? 5 : 0);
		TEST_ASSERT(called_code[i] == 7,
			    "The guest executes the page that the host replaced");
	}

	kvm_vm_free(vm);
	return 0;
}

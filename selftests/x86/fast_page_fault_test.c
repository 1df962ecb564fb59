// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM fixes write-protection faults due to dirty logging without mmu_lock,
 * and none that it must not fix that way.
 *
 * A guest writes pages, the host reads the dirty log, the guest writes the pages again:
 * those faults are fixed fast, according to the vCPU's pf_fast, except for a few pages that
 * the host may have unmapped, and each of the pages is logged.  So it is for a guest,
 * and for a nested guest whose pages L1 maps as huge pages or 4K pages, and for a guest
 * that writes to read-only pages, CR0.WP being 0;
 * with CR0.WP=1, it must fault there.  So it is for a guest in 32-bit mode with PAE paging,
 * also in SMM, where the log is that of SMM's address space.
 *
 * So are faults on pages of a nested guest that were aged, if L1 uses EPT without A/D bits.
 *
 * With shadow paging, pages of a guest are also write-protected because
 *  - the guest's PTE isn't dirty: the guest must find it dirty after it wrote the page;
 *  - the page is a page table: what the guest writes to it must take effect.
 * With TDP, both is the hardware's business, and the test can't but pass.
 *
 * What can't be tested: that a fault that was fixed fast didn't take mmu_lock nonetheless.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "nested_x86.h"
#include "page_idle.h"
#include "pin_util.h"
#include "processor.h"
#include "run_until.h"
#include "smm.h"
#include "test_util.h"
#include "ucall_common.h"
#include "vmx.h"

#define TEST_SLOT	10
/* The one of SMM's address space. */
#define SMM_SLOT(slot)	((1 << 16) | (slot))
#define NR_PAGES	512ul
#define TEST_SIZE	(NR_PAGES * PAGE_SIZE)
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define PTE_GVA		0xd0000000ul
/* What L1 maps to TEST_GPA for L2: KVM must not mistake the one for the other. */
#define L2_TEST_GPA	(TEST_GPA + SZ_1G)
/* Of NR_PAGES faults. */
#define MAX_NOISE	(NR_PAGES / 8)

enum nested {
	NOT_NESTED,
	NESTED_HUGE,
	NESTED_4K,
};

static const char * const names[] = {
	[NOT_NESTED]	= "guest",
	[NESTED_HUGE]	= "nested guest, huge pages",
	[NESTED_4K]	= "nested guest, 4K pages",
};

/* Set by the host: where the guest finds the PTE of the first page, and masks. */
static u64 *guest_pte;
static u64 pte_dirty;
static u64 pte_page_1;

static void write_all(u64 value)
{
	u64 page;

	for (page = 0; page < NR_PAGES; page++)
		WRITE_ONCE(*(u64 *)(TEST_GVA + page * PAGE_SIZE), value + page);
}

static void dirty_pages(void)
{
	write_all(1);
	GUEST_SYNC(1);
	write_all(2);
	GUEST_SYNC(2);
}

static void use_page_tables(void)
{
	u64 *mem = (u64 *)TEST_GVA;

	/* A page that isn't dirty, according to the guest, after the log was read. */
	WRITE_ONCE(*guest_pte, READ_ONCE(*guest_pte) & ~pte_dirty);
	invlpg(TEST_GVA);
	READ_ONCE(*mem);
	GUEST_SYNC(3);
	WRITE_ONCE(*mem, 3);
	GUEST_ASSERT(READ_ONCE(*guest_pte) & pte_dirty);

	/*
	 * Loading CR3 synchronizes the page tables' shadow, which the above let get out
	 * of sync, i.e. the page table is write-protected again.
	 */
	set_cr3(get_cr3());
	GUEST_ASSERT_EQ(READ_ONCE(*mem), 3);
	WRITE_ONCE(*guest_pte, pte_page_1);
	invlpg(TEST_GVA);
	GUEST_ASSERT_EQ(READ_ONCE(*mem), 2 + 1);
}

static void guest_code(void)
{
	set_cr0(get_cr0() | X86_CR0_WP);
	dirty_pages();
	use_page_tables();
	GUEST_DONE();
}

/* The PTEs are read-only. */
static void no_wp_guest_code(void)
{
	set_cr0(get_cr0() & ~X86_CR0_WP);
	dirty_pages();
	set_cr0(get_cr0() | X86_CR0_WP);
	GUEST_ASSERT_EQ(kvm_asm_safe("movq %%rax, (%%rcx)", "a"(3), "c"(TEST_GVA)), PF_VECTOR);
	GUEST_DONE();
}

static void l2_guest_code(u32 unused)
{
	dirty_pages();
	GUEST_DONE();
}

static void l1_guest_code(void *nested)
{
	enter_l2(l2_guest_code, 0, nested);
}

static void setup_nested(struct kvm_vm *vm, struct kvm_vcpu *vcpu, enum nested nested)
{
	vm_enable_tdp(vm);
	vcpu_arch_set_entry_point(vcpu, l1_guest_code);
	vcpu_args_set(vcpu, 1, vcpu_alloc_nested(vm));

	if (nested == NESTED_HUGE)
		tdp_map_2m(vm, L2_TEST_GPA, TEST_GPA, TEST_SIZE);
	else
		tdp_map(vm, L2_TEST_GPA, TEST_GPA, TEST_SIZE);
	tdp_identity_map_default_memslots(vm);
}

static u64 harvest(struct kvm_vm *vm, u32 slot)
{
	unsigned long *bitmap = bitmap_zalloc(NR_PAGES);
	u64 page, nr = 0;

	kvm_vm_get_dirty_log(vm, slot, bitmap);
	for (page = 0; page < NR_PAGES; page++)
		nr += test_bit(page, bitmap);
	free(bitmap);
	return nr;
}

/* With PML, the CPU logs what a guest writes.  KVM write-protects pages of nested guests. */
static bool is_logged_without_faults(enum nested nested)
{
	return nested == NOT_NESTED && host_cpu_is_intel && kvm_is_tdp_enabled() &&
	       get_kvm_intel_param_bool("pml");
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, void *code, gpa_t gpa)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, code);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, TEST_GVA, gpa, NR_PAGES);
	return vm;
}

/* Runs dirty_pages() up to where it syncs. */
static void run_until_sync(struct kvm_vcpu *vcpu)
{
	run_until(vcpu, UCALL_SYNC);
}

/* @write_pages has the guest write all pages of the memslot. */
static void verify_faults(struct kvm_vcpu *vcpu, void (*write_pages)(struct kvm_vcpu *vcpu),
			  u32 slot, const char *name, u64 expected)
{
	u64 fast, logged;

	write_pages(vcpu);
	TEST_ASSERT_EQ(harvest(vcpu->vm, slot), NR_PAGES);

	fast = vcpu_get_stat(vcpu, pf_fast);
	write_pages(vcpu);
	fast = vcpu_get_stat(vcpu, pf_fast) - fast;
	logged = harvest(vcpu->vm, slot);
	printf("guest=\"%s\" pages=%lu fixed_fast=%lu logged=%lu\n", name, NR_PAGES, fast,
	       logged);
	TEST_ASSERT(logged == NR_PAGES, "%s: %lu of %lu pages are not in the log", name,
		    NR_PAGES - logged, NR_PAGES);
	TEST_ASSERT(fast <= expected + MAX_NOISE && fast + MAX_NOISE >= expected,
		    "%s: %lu of %lu faults were fixed fast", name, fast, expected);
}

static void test_guest(enum nested nested)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 *pte;

	vm = create_vm(&vcpu, guest_code, nested == NOT_NESTED ? TEST_GPA : L2_TEST_GPA);
	pte = vm_get_pte(vm, TEST_GVA);
	virt_map(vm, PTE_GVA, align_down(addr_hva2gpa(vm, pte), PAGE_SIZE), 1);
	guest_pte = (u64 *)(PTE_GVA + (unsigned long)pte % PAGE_SIZE);
	pte_dirty = PTE_DIRTY_MASK(&vm->mmu);
	pte_page_1 = *vm_get_pte(vm, TEST_GVA + PAGE_SIZE);
	sync_global_to_guest(vm, guest_pte);
	sync_global_to_guest(vm, pte_dirty);
	sync_global_to_guest(vm, pte_page_1);
	if (nested != NOT_NESTED)
		setup_nested(vm, vcpu, nested);

	verify_faults(vcpu, run_until_sync, TEST_SLOT, names[nested],
		      is_logged_without_faults(nested) ? 0 : NR_PAGES);
	if (nested == NOT_NESTED) {
		run_until(vcpu, UCALL_SYNC);
		harvest(vm, TEST_SLOT);
	}
	run_until(vcpu, UCALL_DONE);
	kvm_vm_free(vm);
}

static void test_no_wp(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u64 page;

	vm = create_vm(&vcpu, no_wp_guest_code, TEST_GPA);
	for (page = 0; page < NR_PAGES; page++)
		*vm_get_pte(vm, TEST_GVA + page * PAGE_SIZE) &= ~PTE_WRITABLE_MASK(&vm->mmu);

	verify_faults(vcpu, run_until_sync, TEST_SLOT, "guest without CR0.WP",
		      is_logged_without_faults(NOT_NESTED) ? 0 : NR_PAGES);
	run_until(vcpu, UCALL_DONE);
	kvm_vm_free(vm);
}

/* With A/D bits, aging doesn't take access away.  An L1 that doesn't know of them has none. */
static void test_access_tracked(void)
{
	u64 pfns[NR_PAGES], page, cap, fast, idle = 0;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *mem;
	int fd;

	fd = open(PAGE_IDLE_BITMAP, O_RDWR);
	if (fd < 0) {
		print_skip("access-tracked SPTEs: no idle page bitmap");
		return;
	}

	vm = create_vm(&vcpu, l1_guest_code, L2_TEST_GPA);
	mem = addr_gpa2hva(vm, TEST_GPA);
	setup_nested(vm, vcpu, NESTED_4K);
	vm_mem_region_set_flags(vm, TEST_SLOT, 0);
	cap = vcpu_get_msr(vcpu, MSR_IA32_VMX_EPT_VPID_CAP);
	vcpu_set_msr(vcpu, MSR_IA32_VMX_EPT_VPID_CAP, cap & ~VMX_EPT_VPID_CAP_AD_BITS);

	run_until_sync(vcpu);
	if (!__look_up_pfns(mem, PAGE_SIZE, NR_PAGES, pfns)) {
		print_skip("access-tracked SPTEs: can't look up PFNs");
	} else {
		for (page = 0; page < NR_PAGES; page++)
			write_page_idle(fd, pfns[page] / PAGE_IDLE_BITS,
					BIT_ULL(pfns[page] % PAGE_IDLE_BITS));
		/* Pages that aren't on an LRU list yet can't be idle. */
		for (page = 0; page < NR_PAGES; page++)
			idle += !!(read_page_idle(fd, pfns[page] / PAGE_IDLE_BITS) &
				   BIT_ULL(pfns[page] % PAGE_IDLE_BITS));
		/* Aging leaves TLBs alone, switching logging on flushes them. */
		vm_mem_region_set_flags(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
		vm_mem_region_set_flags(vm, TEST_SLOT, 0);

		fast = vcpu_get_stat(vcpu, pf_fast);
		run_until_sync(vcpu);
		fast = vcpu_get_stat(vcpu, pf_fast) - fast;
		printf("guest=\"nested guest, EPT without A/D bits\" pages=%lu fixed_fast=%lu\n",
		       (unsigned long)idle, (unsigned long)fast);
		TEST_ASSERT(fast + MAX_NOISE >= idle && fast <= idle + MAX_NOISE,
			    "%lu of %lu faults on pages that were aged were fixed fast",
			    (unsigned long)fast, (unsigned long)idle);
		for (page = 0; page < NR_PAGES; page++)
			TEST_ASSERT_EQ(*(u64 *)(mem + page * PAGE_SIZE), 2 + page);
	}
	kvm_vm_free(vm);
	close(fd);
}

static void run_until_out(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
}

/* The page tables of a 32-bit guest: 4K pages, present, writable, accessed, dirty. */
static void fill_pae_table(u64 *table, gpa_t gpa)
{
	int i;

	for (i = 0; i < 512; i++)
		table[i] = (gpa + i * PAGE_SIZE) | 0x63;
}

/*
 * What a 32-bit guest has in its first memslot, which is where SMRAM is after a reset:
 * page tables, code, and what takes a CPU from real mode, which is how SMM begins, to them.
 */
#define LOW_GPA		0x30000
#define PDPT_GPA	(LOW_GPA + 0x1000)
#define PD_GPA		(LOW_GPA + 0x2000)
#define CODE_PT_GPA	(LOW_GPA + 0x3000)
#define TEST_PT_GPA	(LOW_GPA + 0x4000)
#define CODE_GPA	(LOW_GPA + 0x5000)
#define GDT_GPA		(LOW_GPA + 0x6000)
#define GDTR_GPA	(LOW_GPA + 0x7000)
#define SMI_GPA		(LOW_GPA + 0x8000)
#define PAE_CR0		(X86_CR0_PE | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG)

/* The pages to be written, NR_PAGES of them, are mapped at 4 MiB. */
extern char pae_code[];
extern char pae_code_end[];
__asm__(".code32\n"
	"pae_code:\n"
	"	mov $0x400000, %ebx\n"
	"	mov $512, %ecx\n"
	"1:	incl (%ebx)\n"
	"	add $0x1000, %ebx\n"
	"	loop 1b\n"
	"	out %al, $0x10\n"
	"	jmp pae_code\n"
	"pae_code_end:\n"
	".code64\n");

/* Set CR4.PAE, CR3 to PDPT_GPA, and CR0 to PAE_CR0, and go to CODE_GPA. */
extern char smi_code[];
extern char smi_code_end[];
__asm__(".code16\n"
	"smi_code:\n"
	"	lgdtl %cs:0x7000\n"
	"	mov $0x20, %eax\n"
	"	mov %eax, %cr4\n"
	"	mov $0x31000, %eax\n"
	"	mov %eax, %cr3\n"
	"	mov $0x80010021, %eax\n"
	"	mov %eax, %cr0\n"
	"	ljmpl $8, $0x35000\n"
	"smi_code_end:\n"
	".code64\n");

static void set_pae_mode(struct kvm_vcpu *vcpu)
{
	struct kvm_segment segment = {
		.limit = 0xffffffff, .selector = 8, .type = 3,
		.present = 1, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.ds = sregs.es = sregs.ss = segment;
	segment.type = 0xb;
	sregs.cs = segment;
	sregs.cr0 = PAE_CR0;
	sregs.cr3 = PDPT_GPA;
	sregs.cr4 = X86_CR4_PAE;
	sregs.efer = 0;
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = CODE_GPA;
	vcpu_regs_set(vcpu, &regs);
}

static void test_pae(bool smm)
{
	const u64 gdt[] = { 0, 0x00cf9b000000ffff };
	const gpa_t test_gpa = SZ_8M;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *low, *mem;

	vm = vm_create_barebones();
	low = kvm_mmap(SZ_64K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* As the library does.  Fails without THP. */
	madvise(mem, TEST_SIZE, MADV_NOHUGEPAGE);
	vm_set_user_memory_region(vm, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES, test_gpa, TEST_SIZE,
				  mem);
	vm_set_user_memory_region(vm, 0, 0, LOW_GPA, SZ_64K, low);

	*(u64 *)(low + PDPT_GPA - LOW_GPA) = PD_GPA | 1;
	((u64 *)(low + PD_GPA - LOW_GPA))[0] = CODE_PT_GPA | 0x23;
	((u64 *)(low + PD_GPA - LOW_GPA))[2] = TEST_PT_GPA | 0x23;
	fill_pae_table(low + CODE_PT_GPA - LOW_GPA, 0);
	fill_pae_table(low + TEST_PT_GPA - LOW_GPA, test_gpa);
	memcpy(low + CODE_GPA - LOW_GPA, pae_code, pae_code_end - pae_code);

	vcpu = __vm_vcpu_add(vm, 0);
	vcpu_init_cpuid(vcpu, kvm_get_supported_cpuid());
	if (smm) {
		vm_set_user_memory_region(vm, SMM_SLOT(TEST_SLOT), KVM_MEM_LOG_DIRTY_PAGES,
					  test_gpa, TEST_SIZE, mem);
		vm_set_user_memory_region(vm, SMM_SLOT(0), 0, LOW_GPA, SZ_64K, low);
		memcpy(low + SMI_GPA - LOW_GPA, smi_code, smi_code_end - smi_code);
		memcpy(low + GDT_GPA - LOW_GPA, gdt, sizeof(gdt));
		*(u16 *)(low + GDTR_GPA - LOW_GPA) = sizeof(gdt) - 1;
		*(u32 *)(low + GDTR_GPA - LOW_GPA + 2) = GDT_GPA;
		inject_smi(vcpu);
	} else {
		set_pae_mode(vcpu);
	}

	verify_faults(vcpu, run_until_out, smm ? SMM_SLOT(TEST_SLOT) : TEST_SLOT,
		      smm ? "guest with PAE paging, in SMM" : "guest with PAE paging",
		      is_logged_without_faults(NOT_NESTED) ? 0 : NR_PAGES);
	if (smm)
		TEST_ASSERT_EQ(harvest(vm, TEST_SLOT), 0);
	kvm_vm_free(vm);
	kvm_munmap(low, SZ_64K);
	kvm_munmap(mem, TEST_SIZE);
}

/* SMM begins in real mode.  Without EPT's unrestricted guest, that takes more memslots. */
static bool can_use_smm(void)
{
	return kvm_has_cap(KVM_CAP_X86_SMM) &&
	       (!host_cpu_is_intel || get_kvm_intel_param_bool("unrestricted_guest"));
}

int main(void)
{
	stop_numa_balancing();
	test_guest(NOT_NESTED);
	test_no_wp();
	test_pae(false);
	if (can_use_smm())
		test_pae(true);
	if (kvm_cpu_has_tdp()) {
		test_guest(NESTED_HUGE);
		test_guest(NESTED_4K);
		if (host_cpu_is_intel)
			test_access_tracked();
	}
	return 0;
}

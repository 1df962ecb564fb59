/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The smallest hypervisor for x86: a guest that goes on as a nested guest, on VMX or SVM,
 * with the page tables it has and a stack of its own.  The nested guest's ucalls go to
 * userspace, it never exits to L1: what L1 finds in its registers after that depends on
 * all vCPUs (run_guest() swaps them with a global).
 */
#ifndef SELFTEST_KVM_NESTED_X86_H
#define SELFTEST_KVM_NESTED_X86_H

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "ucall_common.h"
#include "vmx.h"

/* All that a nested guest is entered with is a stack: what to call is there, and below. */
static __attribute__((naked)) void l2_entry(void)
{
	asm volatile("mov	(%rsp), %rdi\n"
		     "jmp	*-8(%rsp)");
}

static inline void set_l2_call(u64 *stack, void (*l2_guest_code)(u32), u32 arg)
{
	stack[0] = arg;
	stack[-1] = (u64)l2_guest_code;
}

/* @nested is what vcpu_alloc_nested() returned. */
static inline void enter_l2(void (*l2_guest_code)(u32), u32 arg, void *nested)
{
	if (this_cpu_has(X86_FEATURE_VMX)) {
		struct vmx_pages *vmx = nested;

		GUEST_ASSERT(prepare_for_vmx_operation(vmx));
		GUEST_ASSERT(load_vmcs(vmx));
		set_l2_call(vmx->stack, l2_guest_code, arg);
		prepare_vmcs(vmx, l2_entry);
		vmlaunch();
	} else {
		struct svm_test_data *svm = nested;

		set_l2_call(svm->stack, l2_guest_code, arg);
		generic_svm_setup(svm, l2_entry);
		run_guest(svm->vmcb, svm->vmcb_gpa);
	}

	GUEST_FAIL("L2 exited to L1");
}

/* Control block and stack of one vCPU's nested guest, by L1's address. */
static inline gva_t vcpu_alloc_nested(struct kvm_vm *vm)
{
	gva_t nested_gva;

	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(vm, &nested_gva);
	else
		vcpu_alloc_svm(vm, &nested_gva);
	return nested_gva;
}

/* In L1's page tables for L2: any CPU has pages of 2M. */
static inline void tdp_map_2m(struct kvm_vm *vm, gpa_t l2_gpa, gpa_t gpa, u64 size)
{
	u64 offset;

	for (offset = 0; offset < size; offset += SZ_2M)
		__virt_pg_map(vm, &vm->stage2_mmu, l2_gpa + offset, gpa + offset, PG_LEVEL_2M);
}

#endif /* SELFTEST_KVM_NESTED_X86_H */

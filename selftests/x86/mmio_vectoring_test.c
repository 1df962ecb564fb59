// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that KVM tells an instruction's access to MMIO, which it emulates, from one that
 * the CPU makes while it delivers an event, which it can't emulate and reports to userspace:
 *
 *  - the IDT is MMIO, and an exception is raised,
 *  - the IDT is MMIO, and an interrupt is accepted: the instruction that it precedes must
 *    not be emulated in its stead,
 *  - an instruction reads MMIO after an exception was delivered.
 *
 * For an exception, see test_mmio_during_vectoring() in set_memory_region_test, too.
 */
#include <stdlib.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define MMIO_GPA	0xc0000000ul
#define MMIO_VALUE	0xbeef
#define IRQ_VECTOR	0x80

static void point_idt_to_mmio(void)
{
	const struct desc_ptr desc = {
		.address = MMIO_GPA,
		.size = PAGE_SIZE - 1,
	};

	set_idt(&desc);
}

static void exception_code(void)
{
	point_idt_to_mmio();
	asm volatile("ud2");
	GUEST_FAIL("KVM skipped UD2");
}

static void irq_code(void)
{
	x2apic_enable();
	x2apic_write_reg(APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT | IRQ_VECTOR);
	point_idt_to_mmio();
	/* The interrupt is accepted after the first NOP. */
	asm volatile("sti; nop; nop");
	GUEST_FAIL("KVM emulated what the interrupt precedes");
}

static void skip_ud2(struct ex_regs *regs)
{
	regs->rip += 2;
}

static void read_code(void)
{
	asm volatile("ud2");
	GUEST_ASSERT_EQ(READ_ONCE(*(u32 *)MMIO_GPA), MMIO_VALUE);
	GUEST_DONE();
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, void *code)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, code);

	virt_map(vm, MMIO_GPA, MMIO_GPA, 1);
	return vm;
}

static void expect_guest_done(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit %s (%u)",
			  exit_reason_str(vcpu->run->exit_reason), vcpu->run->exit_reason);
	}
}

static void verify_delivery_is_reported(void *code, u8 vector)
{
	gpa_t gpa = MMIO_GPA + vector * sizeof(struct idt_entry);
	struct kvm_vcpu *vcpu;
	struct kvm_run *run;
	struct kvm_vm *vm;

	vm = create_vm(&vcpu, code);
	run = vcpu->run;

	vcpu_run(vcpu);
	if (run->exit_reason != KVM_EXIT_INTERNAL_ERROR)
		expect_guest_done(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
	TEST_ASSERT_EQ(run->internal.suberror, KVM_INTERNAL_ERROR_DELIVERY_EV);
	TEST_ASSERT(run->internal.ndata > 3, "KVM reports %u words", run->internal.ndata);
	TEST_ASSERT_EQ(run->internal.data[3], gpa);

	kvm_vm_free(vm);
}

static void verify_read_is_emulated(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_run *run;
	struct kvm_vm *vm;

	vm = create_vm(&vcpu, read_code);
	run = vcpu->run;
	vm_install_exception_handler(vm, UD_VECTOR, skip_ud2);

	vcpu_run(vcpu);
	TEST_ASSERT(run->exit_reason == KVM_EXIT_MMIO,
		    "Exit %s (%u), suberror %u, instead of KVM_EXIT_MMIO",
		    exit_reason_str(run->exit_reason), run->exit_reason,
		    run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0);
	TEST_ASSERT_EQ(run->mmio.phys_addr, MMIO_GPA);
	TEST_ASSERT_EQ(run->mmio.len, sizeof(u32));
	TEST_ASSERT(!run->mmio.is_write, "KVM reports a write, the guest reads");
	*(u32 *)run->mmio.data = MMIO_VALUE;

	vcpu_run(vcpu);
	expect_guest_done(vcpu);

	kvm_vm_free(vm);
}

int main(void)
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_IRQCHIP));

	verify_delivery_is_reported(exception_code, UD_VECTOR);
	verify_delivery_is_reported(irq_code, IRQ_VECTOR);
	verify_read_is_emulated();

	return 0;
}

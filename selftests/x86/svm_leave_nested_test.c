// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that L1 runs with a root of its own after userspace took the vCPU out of L2, by
 * KVM_SET_NESTED_STATE, although the root that L1 had before it ran L2 was freed meanwhile.
 */
#include <signal.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "ucall_common.h"

#define DATA_SLOT	10
#define DATA_GPA	0xc0000000ul

/* A vCPU that doesn't get ahead, because KVM fixes the faults of another root, is killed. */
#define HANG_SECONDS	10

enum stage {
	STAGE_L2,
	STAGE_L2_AGAIN,
	STAGE_L1,
};

static u64 read_data(void)
{
	return READ_ONCE(*(u64 *)DATA_GPA);
}

static void l2_guest_code(void)
{
	GUEST_SYNC_ARGS(STAGE_L2, read_data(), 0, 0, 0);
	GUEST_SYNC_ARGS(STAGE_L2_AGAIN, read_data(), 0, 0, 0);
	GUEST_FAIL("L2 goes on");
}

static void l1_guest_code(struct svm_test_data *svm)
{
	/* Give the root that L1 has now something to translate. */
	read_data();
	generic_svm_setup(svm, l2_guest_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_FAIL("L2 exited to L1");
}

static void l1_goes_on(void)
{
	GUEST_SYNC_ARGS(STAGE_L1, read_data(), 0, 0, 0);
}

static void interrupt(int signal)
{
}

static void run_stage(struct kvm_vcpu *vcpu, enum stage stage, u64 data)
{
	struct ucall uc;
	int ret;

	alarm(HANG_SECONDS);
	ret = __vcpu_run(vcpu);
	alarm(0);
	TEST_ASSERT(!ret, "Stage %d: the vCPU doesn't get ahead: %s", stage, strerror(errno));

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT(uc.args[1] == stage, "Got to stage %lu, expected %d",
			    uc.args[1], stage);
		TEST_ASSERT(uc.args[2] == data, "Stage %d: read %lu, expected %lu", stage,
			    uc.args[2], data);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Stage %d: unexpected exit: %s", stage,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

int main(int argc, char *argv[])
{
	struct kvm_nested_state state = {
		.flags = KVM_STATE_NESTED_GIF_SET,
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.size = sizeof(state),
	};
	struct sigaction sa = { .sa_handler = interrupt };
	struct kvm_vcpu *vcpu;
	struct kvm_regs regs;
	struct kvm_vm *vm;
	gva_t nested_gva;
	u64 *data;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	vm = vm_create_with_one_vcpu(&vcpu, l1_guest_code);
	vcpu_alloc_svm(vm, &nested_gva);
	vcpu_args_set(vcpu, 1, nested_gva);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DATA_GPA, DATA_SLOT, 1, 0);
	virt_map(vm, DATA_GPA, DATA_GPA, 1);
	data = addr_gpa2hva(vm, DATA_GPA);
	sigaction(SIGALRM, &sa, NULL);

	*data = 1;
	run_stage(vcpu, STAGE_L2, 1);

	/* Roots, i.e. L1's as well, are freed before L2 goes on, with another one. */
	vm_mem_region_reload(vm, DATA_SLOT);
	*data = 2;
	run_stage(vcpu, STAGE_L2_AGAIN, 2);

	vcpu_nested_state_set(vcpu, &state);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = (u64)l1_goes_on;
	/* As if l1_goes_on() had been called. */
	regs.rsp = align_down(regs.rsp, 16) - 8;
	vcpu_regs_set(vcpu, &regs);
	*data = 3;
	run_stage(vcpu, STAGE_L1, 3);

	kvm_vm_free(vm);
	return 0;
}

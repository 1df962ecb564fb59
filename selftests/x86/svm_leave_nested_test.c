// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that L1 runs with page tables and CR0 as KVM wants them after userspace took the
 * vCPU out of L2, by KVM_SET_NESTED_STATE: what was loaded before L1 ran L2 is no more.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "ucall_common.h"

#define DATA_SLOT	10
#define DATA_GPA	0xc0000000ul
#define READONLY_SLOT	11
#define READONLY_GPA	0xd0000000ul

/* For a vCPU that doesn't get ahead, as KVM fixes faults in another root. */
#define HANG_SECONDS	30

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

	/* Without CR0.WP, which L1 doesn't set, the CPU wouldn't fault. */
	READ_ONCE(*(u64 *)READONLY_GPA);
	WRITE_ONCE(*(u64 *)READONLY_GPA, 1);
	GUEST_FAIL("L1 wrote to what is read-only");
}

/* In another page each time, or an old translation would do. */
static void set_data(u64 *data, u64 value)
{
	TEST_ASSERT(!madvise(data, getpagesize(), MADV_DONTNEED), "madvise: %s", strerror(errno));
	*data = value;
}

static void interrupt(int signal)
{
}

static void run(struct kvm_vcpu *vcpu)
{
	/* Again and again, lest the first one comes before KVM_RUN. */
	const struct itimerval hang = {
		.it_value.tv_sec = HANG_SECONDS,
		.it_interval.tv_sec = 1,
	}, off = {};
	int ret;

	TEST_ASSERT(!setitimer(ITIMER_REAL, &hang, NULL), "setitimer: %s", strerror(errno));
	ret = __vcpu_run(vcpu);
	TEST_ASSERT(!ret, "The vCPU doesn't get ahead: %s", strerror(errno));
	TEST_ASSERT(!setitimer(ITIMER_REAL, &off, NULL), "setitimer: %s", strerror(errno));
}

static void run_stage(struct kvm_vcpu *vcpu, enum stage stage, u64 data)
{
	struct ucall uc;

	run(vcpu);
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
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_READONLY_MEM));

	vm = vm_create_with_one_vcpu(&vcpu, l1_guest_code);
	vcpu_alloc_svm(vm, &nested_gva);
	vcpu_args_set(vcpu, 1, nested_gva);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, DATA_GPA, DATA_SLOT, 1, 0);
	virt_map(vm, DATA_GPA, DATA_GPA, 1);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, READONLY_GPA, READONLY_SLOT, 1,
				    KVM_MEM_READONLY);
	virt_map(vm, READONLY_GPA, READONLY_GPA, 1);
	data = addr_gpa2hva(vm, DATA_GPA);
	sigaction(SIGALRM, &sa, NULL);

	set_data(data, 1);
	run_stage(vcpu, STAGE_L2, 1);

	/* The roots, L1's as well, are freed before L2 goes on, with another one. */
	vm_mem_region_reload(vm, DATA_SLOT);
	set_data(data, 2);
	run_stage(vcpu, STAGE_L2_AGAIN, 2);

	vcpu_nested_state_set(vcpu, &state);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = (u64)l1_goes_on;
	/* As if l1_goes_on() had been called. */
	regs.rsp = align_down(regs.rsp, 16) - 8;
	vcpu_regs_set(vcpu, &regs);
	set_data(data, 3);
	run_stage(vcpu, STAGE_L1, 3);

	run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_MMIO && vcpu->run->mmio.is_write &&
		    vcpu->run->mmio.phys_addr == READONLY_GPA,
		    "L1's write to what is read-only didn't exit: %s",
		    exit_reason_str(vcpu->run->exit_reason));

	kvm_vm_free(vm);
	return 0;
}

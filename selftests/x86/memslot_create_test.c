// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a vCPU sees what another one writes to a memslot that is created meanwhile.
 *
 * The writer writes a page that is in no memslot.  While KVM handles the fault, the host creates
 * the memslot, and the reader reads the page: KVM maps the zero page, read-only.  If the write
 * then goes to the memslot's memory, the reader must see it as soon as the writer is done.  It
 * doesn't if KVM has replaced the reader's SPTE without flushing the reader's TLB.  If the write
 * is an MMIO exit, the memslot came too late, and the round is none.
 *
 * The window is short.  A kernel that isn't slowed down there will hardly fail the test.  An
 * emulator whose TLB doesn't survive an exit hides the missing flush, since the host flushes its
 * own TLBs when it replaces the zero page.  KVM's warning about the SPTE tells then.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	((gpa_t)SZ_4G)
#define TEST_GVA	0xc0000000ul
#define NR_ROUNDS	64

/* The round, and the last one in which each step was done. */
static u64 go, dropped, written, checked;

/* Without PAUSE, which might exit, i.e. cost the reader its TLB entry. */
static void wait_for_round(u64 nr)
{
	while (READ_ONCE(go) != nr)
		;
}

static void writer_code(void)
{
	u64 nr;

	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		wait_for_round(nr);
		WRITE_ONCE(*(u64 *)TEST_GVA, nr);
		WRITE_ONCE(written, nr);
	}
	GUEST_DONE();
}

static void reader_code(void)
{
	u64 nr, value;

	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		wait_for_round(nr);
		while (READ_ONCE(written) != nr)
			READ_ONCE(*(u64 *)TEST_GVA);
		value = READ_ONCE(*(u64 *)TEST_GVA);
		GUEST_ASSERT(READ_ONCE(dropped) == nr || value == nr);
		WRITE_ONCE(checked, nr);
	}
	GUEST_DONE();
}

static u64 *shared(struct kvm_vcpu *vcpu, u64 *var)
{
	return addr_gva2hva(vcpu->vm, (gva_t)var);
}

static void *run_vcpu(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	struct ucall uc;

	do {
		vcpu_run(vcpu);
		if (vcpu->run->exit_reason != KVM_EXIT_MMIO)
			break;
		if (vcpu->run->mmio.is_write)
			WRITE_ONCE(*shared(vcpu, &dropped), READ_ONCE(*shared(vcpu, &go)));
		else
			memset(vcpu->run->mmio.data, 0, sizeof(vcpu->run->mmio.data));
	} while (true);

	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
	return NULL;
}

int main(void)
{
	struct kvm_vcpu *writer, *reader;
	pthread_t writing, reading;
	struct kvm_vm *vm;
	u64 nr, late = 0;
	void *mem;

	vm = __vm_create(VM_SHAPE_DEFAULT, 2, 0);
	writer = vm_vcpu_add(vm, 0, writer_code);
	reader = vm_vcpu_add(vm, 1, reader_code);
	kvm_arch_vm_finalize_vcpus(vm);
	virt_map(vm, TEST_GVA, TEST_GPA, 1);

	mem = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");

	kvm_pthread_create(&writing, NULL, run_vcpu, writer);
	kvm_pthread_create(&reading, NULL, run_vcpu, reader);

	srand(1);
	for (nr = 1; nr <= NR_ROUNDS; nr++) {
		TEST_ASSERT(!madvise(mem, PAGE_SIZE, MADV_DONTNEED), "madvise() failed");
		WRITE_ONCE(*shared(writer, &go), nr);
		usleep(rand() % 500);
		vm_set_user_memory_region(vm, TEST_SLOT, 0, TEST_GPA, PAGE_SIZE, mem);
		while (READ_ONCE(*shared(writer, &checked)) != nr)
			usleep(100);
		late += READ_ONCE(*shared(writer, &dropped)) == nr;
		vm_set_user_memory_region(vm, TEST_SLOT, 0, TEST_GPA, 0, mem);
	}
	kvm_pthread_join(writing, NULL);
	kvm_pthread_join(reading, NULL);

	printf("%lu of %d rounds, the memslot was late\n", (unsigned long)late, NR_ROUNDS);
	kvm_vm_free(vm);
	return 0;
}

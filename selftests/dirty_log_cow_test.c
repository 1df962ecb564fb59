// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a guest's write to memory that the host must copy first, before anybody writes
 * it, doesn't go to the original, dirty logged or not.
 *
 * A page that is write-protected for the sake of dirty logging is made writable by the next
 * write, and KVM may do that without asking the primary MMU.  A page that is write-protected
 * because the host has only lent it, until somebody writes it, looks the same, but isn't.
 *
 * The memory is a private mapping of a file.  Have the guest read pages, so that the file's
 * are mapped, and then write them, and verify that memory has what the guest wrote, that the
 * file doesn't, and that the writes are logged.  Repeat that for three rounds, reaping the log
 * in each: pages of the second and third round are those that logging write-protects.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define NR_PAGES	64
#define NR_ROUNDS	3
#define IN_FILE		0xf11e0000ul

/* Shared with the guest. */
static u64 page_size;

static void guest_code(void)
{
	u64 round, i, *page;

	for (round = 1; round <= NR_ROUNDS; round++) {
		for (i = 0; i < NR_PAGES; i++) {
			page = (u64 *)(TEST_GVA + i * page_size);
			GUEST_ASSERT_EQ(READ_ONCE(*page), round == 1 ? IN_FILE + i : round - 1);
		}
		for (i = 0; i < NR_PAGES; i++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + i * page_size), round);
		GUEST_SYNC(round);
	}
}

static void run_round(struct kvm_vcpu *vcpu, u64 round)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], round);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected ucall %lu", (unsigned long)uc.cmd);
	}
}

static void run_test(u32 flags)
{
	const char *logged = flags ? "logged" : "not logged";
	u64 round, i, *file, *memory, nr_logged;
	unsigned long *log;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	/* What the host copies, and logs, is a page of its own. */
	page_size = max_t(u64, vm->page_size, getpagesize());
	nr_logged = page_size / getpagesize();
	log = bitmap_zalloc(NR_PAGES * nr_logged);
	sync_global_to_guest(vm, page_size);

	fd = kvm_memfd_alloc(NR_PAGES * page_size, false);
	file = kvm_mmap(NR_PAGES * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	memory = kvm_mmap(NR_PAGES * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	for (i = 0; i < NR_PAGES; i++)
		file[i * page_size / sizeof(*file)] = IN_FILE + i;

	vm_set_user_memory_region(vm, TEST_SLOT, flags, TEST_GPA, NR_PAGES * page_size, memory);
	virt_map(vm, TEST_GVA, TEST_GPA, NR_PAGES * page_size / vm->page_size);

	for (round = 1; round <= NR_ROUNDS; round++) {
		run_round(vcpu, round);

		for (i = 0; i < NR_PAGES; i++) {
			u64 in_file = file[i * page_size / sizeof(*file)];
			u64 in_memory = memory[i * page_size / sizeof(*memory)];

			TEST_ASSERT(in_file == IN_FILE + i,
				    "The guest's write to page %lu of private memory went to the file (%s, round %lu)",
				    (unsigned long)i, logged, (unsigned long)round);
			TEST_ASSERT(in_memory == round,
				    "The guest's write to page %lu is lost (%s, round %lu)",
				    (unsigned long)i, logged, (unsigned long)round);
		}
		if (!flags)
			continue;

		kvm_vm_get_dirty_log(vm, TEST_SLOT, log);
		for (i = 0; i < NR_PAGES; i++)
			TEST_ASSERT(test_bit(i * nr_logged, log),
				    "The write to page %lu is not logged (round %lu)",
				    (unsigned long)i, (unsigned long)round);
	}

	kvm_vm_free(vm);
	free(log);
	kvm_munmap(file, NR_PAGES * page_size);
	kvm_munmap(memory, NR_PAGES * page_size);
	close(fd);
}

int main(void)
{
	run_test(0);
	run_test(KVM_MEM_LOG_DIRTY_PAGES);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that writes to a block are logged although a vCPU that faulted on a page has yet to
 * handle that fault when the page becomes part of the block, and logging is switched on.
 *
 * If a vCPU writes a page that is write-protected, KVM makes the entry of the page table
 * writable that the vCPU faulted on.  In the meantime, another vCPU may have replaced the table
 * by a block, as logging was switched off, and userspace may have switched logging on again.
 * What is writable after that, if logged, must be the one page, and not all of the block.
 *
 * In each round, have a block's first page mapped by itself, write-protected, with logging
 * switched off.  Have one vCPU write that page, and meanwhile have another one read a page that
 * isn't mapped, which maps the block, and switch on logging.  Then have a third page written,
 * and verify that it is logged.
 *
 * How long it takes from fault to memslot decides whether a round tests anything.  Usually it's
 * too short, i.e. it takes many rounds, or a kernel that sleeps in between, to see a failure.
 */
#include <pthread.h>
#include <semaphore.h>
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
#define DEFAULT_ROUNDS	50

/* Pages are mapped side by side in the guest, wherever in the block they are. */
enum { PAGE_FIRST, PAGE_MIDDLE, PAGE_LAST, NR_PAGES };

/* Shared with the guest. */
static u64 page_size;
static u64 page;
static bool write_it;
static u64 writes;

static struct kvm_vcpu *vcpus[2];
static void *mem;
static u64 block;
static sem_t begin, end;
static bool done;

static u64 *guest_page(u64 nr)
{
	return (u64 *)(TEST_GVA + nr * page_size);
}

static void guest_code(void)
{
	for (;;) {
		if (READ_ONCE(write_it))
			WRITE_ONCE(*guest_page(READ_ONCE(page)), 1);
		else
			READ_ONCE(*guest_page(READ_ONCE(page)));
		GUEST_SYNC(0);
	}
}

static void guest_code_writer(void)
{
	u64 nr;

	for (nr = 1; ; nr++) {
		WRITE_ONCE(writes, nr);
		WRITE_ONCE(*guest_page(PAGE_FIRST), nr);
		GUEST_SYNC(0);
	}
}

static void run(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static void run_access(struct kvm_vm *vm, u64 nr, bool write)
{
	page = nr;
	write_it = write;
	sync_global_to_guest(vm, page);
	sync_global_to_guest(vm, write_it);
	run(vcpus[0]);
}

static void *writer(void *arg)
{
	for (;;) {
		sem_wait(&begin);
		if (READ_ONCE(done))
			return NULL;
		run(vcpus[1]);
		sem_post(&end);
	}
}

static void set_logging(struct kvm_vm *vm, bool logging)
{
	vm_set_user_memory_region(vm, TEST_SLOT, logging ? KVM_MEM_LOG_DIRTY_PAGES : 0,
				  TEST_GPA, block, mem);
}

static void run_round(struct kvm_vm *vm, u64 round, u64 middle, unsigned long *log)
{
	u64 *written = addr_gva2hva(vm, (gva_t)&writes);

	/* The write splits the block, or maps but the page. Reading the log protects it. */
	set_logging(vm, true);
	run_access(vm, PAGE_FIRST, true);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, log);
	TEST_ASSERT(test_bit(0, log), "The write to the first page isn't logged (round %lu)",
		    (unsigned long)round);
	set_logging(vm, false);

	sem_post(&begin);
	while (READ_ONCE(*written) != round)
		;
	/* From the guest's note to its fault. */
	usleep(round % 4 * 500);

	run_access(vm, PAGE_LAST, false);
	set_logging(vm, true);
	sem_wait(&end);

	/* Don't read the log in between, as that protects the block if any page is dirty. */
	run_access(vm, PAGE_MIDDLE, true);
	kvm_vm_get_dirty_log(vm, TEST_SLOT, log);
	TEST_ASSERT(test_bit(middle, log),
		    "The write to page %lu of the block isn't logged (round %lu)",
		    (unsigned long)middle, (unsigned long)round);
	set_logging(vm, false);
}

int main(int argc, char *argv[])
{
	u64 rounds = DEFAULT_ROUNDS, round, middle, i;
	pthread_t thread;
	struct kvm_vm *vm;
	unsigned long *log;
	int opt;

	while ((opt = getopt(argc, argv, "hr:")) != -1) {
		switch (opt) {
		case 'r':
			rounds = atoi_positive("Number of rounds", optarg);
			break;
		default:
			printf("usage: %s [-h] [-r rounds]\n", argv[0]);
			return opt != 'h';
		}
	}

	block = get_def_hugetlb_pagesz();
	__TEST_REQUIRE(block >= getpagesize() * (getpagesize() / sizeof(u64)),
		       "Huge pages of the default size are no blocks");
	mem = mmap(NULL, block, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	__TEST_REQUIRE(mem != MAP_FAILED, "No huge page to be had");

	vm = __vm_create(VM_SHAPE_DEFAULT, ARRAY_SIZE(vcpus), 0);
	vcpus[0] = vm_vcpu_add(vm, 0, guest_code);
	vcpus[1] = vm_vcpu_add(vm, 1, guest_code_writer);
	kvm_arch_vm_finalize_vcpus(vm);

	/* What the host logs is a page of its own. */
	page_size = max_t(u64, vm->page_size, getpagesize());
	middle = block / 2 / getpagesize();
	log = bitmap_zalloc(block / getpagesize());
	sync_global_to_guest(vm, page_size);

	set_logging(vm, false);
	for (i = 0; i < NR_PAGES; i++) {
		gpa_t gpa = TEST_GPA;

		if (i == PAGE_MIDDLE)
			gpa += block / 2;
		else if (i == PAGE_LAST)
			gpa += block - page_size;
		virt_map(vm, TEST_GVA + i * page_size, gpa, page_size / vm->page_size);
	}

	TEST_ASSERT(!sem_init(&begin, 0, 0) && !sem_init(&end, 0, 0), "sem_init");
	kvm_pthread_create(&thread, NULL, writer, NULL);
	for (round = 1; round <= rounds; round++)
		run_round(vm, round, middle, log);

	WRITE_ONCE(done, true);
	sem_post(&begin);
	kvm_pthread_join(thread, NULL);
	printf("rounds=%lu block=%lu\n", (unsigned long)rounds, (unsigned long)block);

	kvm_vm_free(vm);
	free(log);
	kvm_munmap(mem, block);
	return 0;
}

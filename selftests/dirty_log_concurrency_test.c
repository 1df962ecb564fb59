// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify what KVM_GET_DIRTY_LOG with manual protection may and may not wait
 * for.
 *
 * With manual protection, KVM_GET_DIRTY_LOG only reads, and so must not wait
 * for harvests of other memslots.  Whether it does can be observed without
 * measuring time: a userfaultfd holds up one ioctl in its access to the user's
 * bitmap for as long as the test wants, the other one must complete meanwhile.
 *
 * Conversely, a memslot update must wait for KVM_GET_DIRTY_LOG of the memslot,
 * as it may free the bitmap that is being copied.
 *
 * What can't be tested: that an ioctl would have completed "eventually".  An
 * ioctl that is expected to complete gets TIMEOUT_SECS, an eternity for a copy
 * of 4 KiB, and one that is expected to wait is watched for a moment.  The
 * latter can miss a bug on a slow machine, neither should fail without one.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "test_util.h"

#define TIMEOUT_SECS	5
#define WATCH_USECS	200000

#define SLOT_A		10
#define SLOT_B		11
#define SLOT_GPA(slot)	((gpa_t)(slot) * SZ_4G)
/* Of the host's: their bitmap is 4 KiB, i.e. no more than a page, to be held up as a whole. */
#define SLOT_PAGES	(4096ul * 8)

#define NR_UPDATES	100

enum call {
	GET_DIRTY_LOG,
	CLEAR_DIRTY_LOG,
	DISABLE_LOGGING,
};

static const char * const call_names[] = {
	[GET_DIRTY_LOG]		= "KVM_GET_DIRTY_LOG",
	[CLEAR_DIRTY_LOG]	= "KVM_CLEAR_DIRTY_LOG",
	[DISABLE_LOGGING]	= "disabling dirty logging",
};

struct caller {
	struct kvm_vm *vm;
	enum call call;
	int slot;
	void *bitmap;
	pthread_t thread;
};

static int uffd;
/* A page that isn't there, accessing it blocks until resolve() is called. */
static void *absent;
static bool stop_reader;

static void *caller_fn(void *data)
{
	struct caller *c = data;

	switch (c->call) {
	case GET_DIRTY_LOG:
		kvm_vm_get_dirty_log(c->vm, c->slot, c->bitmap);
		break;
	case CLEAR_DIRTY_LOG:
		kvm_vm_clear_dirty_log(c->vm, c->slot, c->bitmap, 0, SLOT_PAGES);
		break;
	case DISABLE_LOGGING:
		vm_mem_region_set_flags(c->vm, c->slot, 0);
		break;
	}
	return NULL;
}

static void call(struct caller *c)
{
	kvm_pthread_create(&c->thread, NULL, caller_fn, c);
}

static bool completes(struct caller *c)
{
	int i;

	/* Counted, as a machine that stands still must not end the wait. */
	for (i = 0; i < TIMEOUT_SECS * 1000; i++) {
		if (!pthread_tryjoin_np(c->thread, NULL))
			return true;
		usleep(1000);
	}
	return false;
}

static void setup_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.len = getpagesize(),
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	__TEST_REQUIRE(uffd >= 0, "No userfaultfd for faults of the kernel: %s", strerror(errno));
	TEST_ASSERT(!ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API: %s", strerror(errno));

	absent = kvm_mmap(getpagesize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	reg.range.start = (unsigned long)absent;
	TEST_ASSERT(!ioctl(uffd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER: %s", strerror(errno));
}

/* Returns once a thread is stuck in its access to the absent page. */
static void wait_until_stuck(void)
{
	struct pollfd pfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;
	int i;

	/* Counted, as in completes(). */
	for (i = 0; i < TIMEOUT_SECS * 1000 && poll(&pfd, 1, 1) != 1; i++)
		;
	TEST_ASSERT(i < TIMEOUT_SECS * 1000, "No access to the absent page");
	TEST_ASSERT(read(uffd, &msg, sizeof(msg)) == sizeof(msg), "read: %s", strerror(errno));
	TEST_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
}

static void resolve(void)
{
	struct uffdio_zeropage zero = {
		.range.start = (unsigned long)absent,
		.range.len = getpagesize(),
	};

	TEST_ASSERT(!ioctl(uffd, UFFDIO_ZEROPAGE, &zero), "UFFDIO_ZEROPAGE: %s", strerror(errno));
}

static struct kvm_vm *create_vm(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	int slot;

	vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);

	for (slot = SLOT_A; slot <= SLOT_B; slot++)
		vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SLOT_GPA(slot), slot,
					    vm_num_guest_pages(vm->mode, SLOT_PAGES),
					    KVM_MEM_LOG_DIRTY_PAGES);

	/* Absent, again. */
	kvm_madvise(absent, getpagesize(), MADV_DONTNEED);
	return vm;
}

/* No vCPU and no KVM_CLEAR_DIRTY_LOG: an initially set bitmap stays as it is. */
static bool all_dirty(const void *bitmap)
{
	const u8 *byte = bitmap;
	unsigned long i;

	for (i = 0; i < SLOT_PAGES / 8; i++) {
		if (byte[i] != 0xff)
			return false;
	}
	return true;
}

/* KVM_GET_DIRTY_LOG of one memslot must not wait for @stuck of another one. */
static void test_independent(enum call stuck)
{
	struct kvm_vm *vm = create_vm();
	void *bitmap = malloc(SLOT_PAGES / 8);
	struct caller a = { .vm = vm, .call = stuck, .slot = SLOT_A, .bitmap = absent };
	struct caller b = { .vm = vm, .call = GET_DIRTY_LOG, .slot = SLOT_B, .bitmap = bitmap };
	bool completed;

	call(&a);
	wait_until_stuck();
	call(&b);
	completed = completes(&b);
	resolve();
	kvm_pthread_join(a.thread, NULL);
	if (!completed)
		kvm_pthread_join(b.thread, NULL);

	TEST_ASSERT(completed, "KVM_GET_DIRTY_LOG waits for %s of another memslot",
		    call_names[stuck]);
	TEST_ASSERT(all_dirty(bitmap), "KVM_GET_DIRTY_LOG lost bits of an initially set log");
	free(bitmap);
	kvm_vm_free(vm);
}

/* Freeing the bitmap must wait for KVM_GET_DIRTY_LOG. */
static void test_update_waits(void)
{
	struct kvm_vm *vm = create_vm();
	struct caller get = { .vm = vm, .call = GET_DIRTY_LOG, .slot = SLOT_A, .bitmap = absent };
	struct caller disable = { .vm = vm, .call = DISABLE_LOGGING, .slot = SLOT_A };
	bool early;

	call(&get);
	wait_until_stuck();
	call(&disable);
	usleep(WATCH_USECS);
	early = !pthread_tryjoin_np(disable.thread, NULL);
	resolve();
	kvm_pthread_join(get.thread, NULL);
	if (!early)
		kvm_pthread_join(disable.thread, NULL);

	TEST_ASSERT(!early, "Dirty logging was disabled while KVM_GET_DIRTY_LOG copied the bitmap");
	TEST_ASSERT(all_dirty(absent), "KVM_GET_DIRTY_LOG copied a bitmap that had been freed");
	kvm_vm_free(vm);
}

static unsigned long gets, absences;

static void *reader_fn(void *data)
{
	struct kvm_vm *vm = data;
	void *bitmap = malloc(SLOT_PAGES / 8);
	struct kvm_dirty_log log = { .slot = SLOT_A, .dirty_bitmap = bitmap };

	while (!READ_ONCE(stop_reader)) {
		if (!__vm_ioctl(vm, KVM_GET_DIRTY_LOG, &log)) {
			TEST_ASSERT(all_dirty(bitmap), "KVM_GET_DIRTY_LOG copied something else");
			WRITE_ONCE(gets, gets + 1);
		} else {
			TEST_ASSERT(errno == ENOENT, "KVM_GET_DIRTY_LOG: %s", strerror(errno));
			WRITE_ONCE(absences, absences + 1);
		}
	}
	printf("gets=%lu\n", gets);
	printf("absences=%lu\n", absences);
	free(bitmap);
	return NULL;
}

/* KVM_GET_DIRTY_LOG racing with the memslot's bitmap coming and going. */
static void test_update_races(void)
{
	struct kvm_vm *vm = create_vm();
	pthread_t reader;
	int i;

	WRITE_ONCE(stop_reader, false);
	kvm_pthread_create(&reader, NULL, reader_fn, vm);
	/* The reader may take its time to start. */
	for (i = 0; i < NR_UPDATES || !READ_ONCE(gets) || !READ_ONCE(absences); i++) {
		vm_mem_region_set_flags(vm, SLOT_A, 0);
		usleep(100);
		vm_mem_region_set_flags(vm, SLOT_A, KVM_MEM_LOG_DIRTY_PAGES);
		usleep(100);
	}
	WRITE_ONCE(stop_reader, true);
	kvm_pthread_join(reader, NULL);
	kvm_vm_free(vm);
}

int main(void)
{
	u64 caps = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

	TEST_REQUIRE((kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & caps) == caps);
	setup_uffd();

	test_update_waits();
	test_update_races();
	test_independent(CLEAR_DIRTY_LOG);
	test_independent(GET_DIRTY_LOG);

	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify what KVM reports of harvests of the dirty log: the statistic
 * dirty_log_harvest_max_ns, and the trace event kvm_dirty_log_harvest.
 *
 * Both are compared with what the test knows: which ioctls harvest, how many pages
 * they harvest, and that none takes longer than its caller waits for it.  Where there is
 * no tracefs, or it isn't ours to use, only the statistic is.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <asm/barrier.h>
#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "harvest_stat.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "trace_count.h"
#include "ucall_common.h"

#define HARVEST_EVENT	"kvm_dirty_log_harvest"

#define TEST_SLOT	10
#define TEST_GVA	0xc0000000ul
#define TEST_GPA	SZ_4G
#define TEST_PAGES	512
#define RING_ENTRIES	4096

/* Shared with the guest. */
static u64 page_size;
static u64 nr_pages;

static bool tracing;

static void guest_code(void)
{
	u64 page;

	for (;;) {
		for (page = 0; page < nr_pages; page++)
			WRITE_ONCE(*(u64 *)(TEST_GVA + page * page_size), page);
		GUEST_SYNC(0);
	}
}

static void guest_write_all(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
}

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void start_tracing(void)
{
	char own[32];
	int fd;

	tracing = in_initial_pid_namespace() && trace_count_start();
	if (!tracing)
		return;

	/* Other VMs are harvested, too; set_event_pid would trace the host's scheduler. */
	fd = open(trace_path("events/kvm/" HARVEST_EVENT "/filter"), O_WRONLY);
	TEST_ASSERT(fd >= 0, "KVM has " HARVEST_STAT ", but no event " HARVEST_EVENT);
	snprintf(own, sizeof(own), "common_pid == %d", getpid());
	TEST_ASSERT(write(fd, own, strlen(own)) == (ssize_t)strlen(own), "Can't trace ourselves");
	close(fd);
	TEST_ASSERT(trace_count_event(HARVEST_EVENT), "Can't trace " HARVEST_EVENT);
}

/* Of the events since the last call, which must be one if @wanted, else none. */
static void verify_event(const char *wanted, int slot, u64 pages, u64 waited, u64 *ns)
{
	char line[512], op[16];
	unsigned long p, t;
	unsigned int s;
	FILE *file;
	int nr = 0;
	char *event;

	*ns = 0;
	if (!tracing)
		return;

	file = fopen(trace_path("trace"), "r");
	TEST_ASSERT(file, "Can't read the trace");
	while (fgets(line, sizeof(line), file)) {
		event = strstr(line, HARVEST_EVENT ": ");
		if (!event)
			continue;
		nr++;
		TEST_ASSERT(sscanf(event, HARVEST_EVENT ": %15s slot 0x%x pages %lu ns %lu",
				   op, &s, &p, &t) == 4, "Can't read '%s'", event);
		TEST_ASSERT(wanted && !strcmp(op, wanted) && s == (unsigned int)slot && p == pages,
			    "Wanted '%s slot 0x%x pages %lu', got '%s'", wanted ?: "nothing", slot,
			    pages, event);
		TEST_ASSERT(t <= waited, "%lu ns, of %lu that the caller waited", t, waited);
		*ns = t;
	}
	fclose(file);
	TEST_ASSERT(nr == !!wanted, "%d events, not %d", nr, !!wanted);

	/* Opening the trace to write truncates it. */
	fclose(fopen(trace_path("trace"), "w"));
}

/*
 * What an ioctl that took from @begin until now has to have changed, if it harvested
 * @pages as @op, or nothing if there is no @op.
 */
static void verify(struct kvm_vm *vm, const char *op, int slot, u64 pages, u64 begin, u64 before)
{
	u64 waited = now_ns() - begin, after = longest_harvest_ns(vm), ns;

	verify_event(op, slot, pages, waited, &ns);
	if (!op) {
		TEST_ASSERT_EQ(after, before);
		return;
	}
	TEST_ASSERT(after >= before, "The peak was %lu, is %lu", before, after);
	TEST_ASSERT(after == before || after <= waited,
		    "The peak is %lu ns, but the caller waited for %lu", after, waited);
	if (tracing)
		TEST_ASSERT_EQ(after, max(before, ns));
	printf("op=%s pages=%lu peak_ns=%lu\n", op, pages, after);
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, bool manual, bool ring)
{
	struct kvm_vm *vm = __vm_create(VM_SHAPE_DEFAULT, 1, 0);
	u64 guest_pages;

	if (manual)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
			      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	if (ring)
		vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	*vcpu = vm_vcpu_add(vm, 0, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	/* The log, and whatever else is said of pages here, is of the host's. */
	page_size = getpagesize();
	nr_pages = TEST_PAGES;
	guest_pages = vm_num_guest_pages(vm->mode, nr_pages);
	sync_global_to_guest(vm, page_size);
	sync_global_to_guest(vm, nr_pages);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, guest_pages,
				    KVM_MEM_LOG_DIRTY_PAGES);
	virt_map(vm, TEST_GVA, TEST_GPA, guest_pages);
	guest_write_all(*vcpu);
	TEST_ASSERT(!longest_harvest_ns(vm), "Nothing was harvested yet");
	return vm;
}

static void test_get(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, false, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	u64 begin, before = 0;
	int i;

	for (i = 0; i < 3; i++) {
		begin = now_ns();
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		verify(vm, "get", TEST_SLOT, nr_pages, begin, before);
		before = longest_harvest_ns(vm);

		begin = now_ns();
		kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
		verify(vm, "get", TEST_SLOT, 0, begin, before);
		before = longest_harvest_ns(vm);
		guest_write_all(vcpu);
	}

	free(bitmap);
	kvm_vm_free(vm);
}

static void test_clear(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, true, false);
	unsigned long *bitmap = bitmap_zalloc(nr_pages);
	u64 begin, before;

	begin = now_ns();
	kvm_vm_get_dirty_log(vm, TEST_SLOT, bitmap);
	verify(vm, NULL, TEST_SLOT, 0, begin, 0);

	begin = now_ns();
	kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, 0, nr_pages / 2);
	verify(vm, "clear", TEST_SLOT, nr_pages / 2, begin, 0);

	/* Half of it is clear already. */
	before = longest_harvest_ns(vm);
	begin = now_ns();
	kvm_vm_clear_dirty_log(vm, TEST_SLOT, bitmap, 0, nr_pages);
	verify(vm, "clear", TEST_SLOT, nr_pages / 2, begin, before);

	free(bitmap);
	kvm_vm_free(vm);
}

static void test_ring(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, false, true);
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(vcpu);
	u64 begin;
	u32 nr = 0;

	while (smp_load_acquire(&ring[nr].flags) == KVM_DIRTY_GFN_F_DIRTY)
		smp_store_release(&ring[nr++].flags, KVM_DIRTY_GFN_F_RESET);

	begin = now_ns();
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), nr);
	verify(vm, "reset", -1, nr, begin, 0);

	kvm_vm_free(vm);
}

int main(void)
{
	struct kvm_vm *vm;
	bool found;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_BINARY_STATS_FD));
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
		     KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	vm = vm_create_barebones();
	found = has_harvest_stat(vm);
	kvm_vm_free(vm);
	__TEST_REQUIRE(found, "KVM has no statistic " HARVEST_STAT);

	start_tracing();
	test_get();
	test_clear();
	if (kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) || kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		test_ring();
	if (tracing)
		trace_count_stop();
	else
		pr_info("No tracefs to use: the event was not looked at\n");
	return 0;
}

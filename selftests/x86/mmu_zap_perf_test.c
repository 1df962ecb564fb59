// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure for how long zapping many shadow pages keeps a CPU, and mmu_lock, from others.
 *
 * A guest, or a nested guest if KVM uses TDP, has a page in each of many page tables, i.e.
 * needs as many shadow pages.
 *
 * A thread of real-time priority on the CPU that zaps wants to run once per millisecond:
 * how late it is at worst ("late_ms") is how long the CPU did not reschedule, as it does
 * not with mmu_lock held.  Needs the privilege to have such a thread.
 *
 * As KVM yields to those who wait, that thread bounds what is held to a millisecond's worth.
 * Hence, once more and without it, a thread on another CPU that wants mmu_lock once, at a
 * random time: how long it waits ("wait_ms"), if it comes while KVM zaps.
 *
 * Both, and how long it takes ("ms"), for
 *
 *  - lowering the limit of shadow pages to the lowest there is ("shrink");
 *  - deleting a memslot, which zaps all shadow pages ("delete");
 *  - deleting a large memslot without that quirk, whose memory no shadow page is for
 *    ("delete_sparse");
 *  - unmapping the memory of a large memslot when all shadow pages are zapped
 *    ("unmap_idle");
 *  - destroying the VM ("destroy");
 *  - the guest, which has its pages again with the lowest limit there is ("refill");
 *  - the guest, or L2, which has KVM zap the shadow page of its, or L1's, top-level page
 *    table ("zap_root");
 *  - the same, after a write to each of the other page tables, so that their shadow pages
 *    are unsync ("zap_root_unsync"), and the guest, which has its pages again after that
 *    ("refault");
 *  - reading from debugfs how long the rmaps of a large memslot are ("rmaps_stat").
 *
 * If asked to, and if the kernel has CONFIG_LOCK_STAT, the longest that mmu_lock was held
 * meanwhile, for write and for read ("write_us", "read_us"), with a thread on another CPU that
 * wants it again and again.
 *
 * Results are one "key=value" a line.  All times are those of the machine the test
 * runs on, on an emulated one only ratios mean something.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "lock_stat.h"
#include "pin_util.h"
#include "processor.h"
#include "real_time.h"
#include "shadow_pages.h"
#include "test_util.h"
#include "ucall_common.h"

#define NSEC_PER_MSEC	1000000l

#define EXTRA_SLOT	12
#define KVM_DEBUGFS	"/sys/kernel/debug/kvm"

static u64 nr_tables = 10000;
static u64 sparse_size = 64ul * SZ_1G;
static int nr_waits = 1;
static struct kvm_random_state rng;
static cpu_set_t allowed_cpus;
static bool use_lock_stat;
static bool stop;
/* KVM_RUN failed, as the limit of shadow pages is lower than what vCPUs need. */
static bool no_room;

/* Shared with the guest. */
static enum {
	TOUCH_PAGES,
	WRITE_TABLES,
	WRITE_ROOT,
} task;
static u64 nr_pts;

static void guest_code(void)
{
	u64 i;

	for (;;) {
		switch (READ_ONCE(task)) {
		case TOUCH_PAGES:
			for (i = 0; i < nr_tables; i++)
				WRITE_ONCE(*guest_table_page(i), i);
			break;
		case WRITE_TABLES:
			for (i = 0; i < nr_pts; i++)
				guest_write_table(guest_table(i));
			break;
		case WRITE_ROOT:
			guest_write_root_table();
			break;
		}
		GUEST_DONE();
	}
}

static s64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return timespec_to_ns(ts);
}

static void *be_on_time(void *worst)
{
	s64 next = now_ns(), late;
	struct timespec ts;

	while (!READ_ONCE(stop)) {
		next += NSEC_PER_MSEC;
		ts.tv_sec = next / NSEC_PER_SEC;
		ts.tv_nsec = next % NSEC_PER_SEC;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		late = now_ns() - next;
		if (late > *(s64 *)worst)
			*(s64 *)worst = late;
		if (late > NSEC_PER_MSEC)
			next = now_ns();
	}
	return NULL;
}

static void run_task(struct shadow_vm *s, int guest_task)
{
	struct ucall uc;
	int ret;

	task = guest_task;
	sync_global_to_guest(s->vm, task);
	ret = __vcpu_run(s->vcpu);
	if (ret && errno == ENOSPC) {
		no_room = true;
		return;
	}
	TEST_ASSERT(!ret, KVM_IOCTL_ERROR(KVM_RUN, ret));
	TEST_ASSERT_EQ(get_ucall(s->vcpu, &uc), UCALL_DONE);
}

static void populate(struct shadow_vm *s)
{
	run_task(s, TOUCH_PAGES);
}

static void unsync(struct shadow_vm *s)
{
	run_task(s, WRITE_TABLES);
}

static void zap_root(struct shadow_vm *s)
{
	run_task(s, WRITE_ROOT);
}

static void unsync_and_zap_root(struct shadow_vm *s)
{
	unsync(s);
	zap_root(s);
}

static void create_populated(struct shadow_vm *s)
{
	shadow_vm_create(s, nr_tables, guest_code);
	nr_pts = s->pt_size / PAGE_SIZE;
	sync_global_to_guest(s->vm, nr_tables);
	sync_global_to_guest(s->vm, nr_pts);
	set_shadow_page_limit(s->vm, MAX_SHADOW_PAGES);
	populate(s);
}

struct zap {
	const char *name;
	void (*prepare)(struct shadow_vm *s);
	void (*run)(struct shadow_vm *s);
	/* Frees the VM: nobody else wants its mmu_lock. */
	bool frees_vm;
};

/* Returns how long it takes. */
static s64 measure_late(const struct zap *zap)
{
	struct shadow_vm s;
	pthread_t thread;
	s64 worst = 0, start, ns;
	bool real_time;

	create_populated(&s);
	if (zap->prepare)
		zap->prepare(&s);

	stop = false;
	real_time = start_real_time(&thread, be_on_time, &worst);
	usleep(10000);
	start = now_ns();
	zap->run(&s);
	ns = now_ns() - start;
	if (real_time) {
		WRITE_ONCE(stop, true);
		kvm_pthread_join(thread, NULL);
	} else {
		pr_info("No privilege to have a thread of real-time priority\n");
	}
	if (no_room) {
		pr_info("KVM has no room for the shadow pages that %s takes\n", zap->name);
	} else {
		printf("%s_ms=%.1f\n", zap->name, (double)ns / NSEC_PER_MSEC);
		if (real_time)
			printf("%s_late_ms=%.1f\n", zap->name, (double)worst / NSEC_PER_MSEC);
	}
	if (!zap->frees_vm)
		kvm_vm_free(s.vm);
	return ns;
}

struct waiter {
	void *mem;
	s64 when;
	s64 begin;
	s64 end;
};

static void *wait_once(void *data)
{
	struct waiter *w = data;

	pin_self_to_nth_cpu(&allowed_cpus, 1);
	while (now_ns() < READ_ONCE(w->when) || !READ_ONCE(w->when))
		;
	w->begin = now_ns();
	TEST_ASSERT(!madvise(w->mem, getpagesize(), MADV_DONTNEED), "Can't unmap memory");
	w->end = now_ns();
	return NULL;
}

/* @ns is how long zapping takes. */
static void measure_wait(const struct zap *zap, s64 ns)
{
	struct waiter w = {};
	struct shadow_vm s;
	pthread_t thread;
	s64 start, end;

	create_populated(&s);
	/* A page that nobody uses: KVM takes mmu_lock to find that out. */
	w.mem = s.mem + getpagesize();
	if (zap->prepare)
		zap->prepare(&s);

	kvm_pthread_create(&thread, NULL, wait_once, &w);
	usleep(10000);
	start = now_ns();
	WRITE_ONCE(w.when, start + ns / 1000 * (s64)(kvm_random_u32(&rng) % 1000));
	zap->run(&s);
	end = now_ns();
	kvm_pthread_join(thread, NULL);
	if (w.begin < end)
		printf("%s_wait_ms=%.3f\n", zap->name, (double)(w.end - w.begin) / NSEC_PER_MSEC);
	kvm_vm_free(s.vm);
}

/* KVM yields to those who want mmu_lock: want it, at random times.  Fails once the VM is gone. */
static void *want_lock(void *mem)
{
	pin_self_to_nth_cpu(&allowed_cpus, 1);
	while (!READ_ONCE(stop)) {
		madvise(mem, getpagesize(), MADV_DONTNEED);
		usleep(kvm_random_u32(&rng) % 1000);
	}
	return NULL;
}

static void measure_hold(const struct zap *zap)
{
	struct lock_counts counts;
	struct shadow_vm s;
	pthread_t thread;

	create_populated(&s);
	if (zap->prepare)
		zap->prepare(&s);

	stop = false;
	kvm_pthread_create(&thread, NULL, want_lock, s.mem + getpagesize());
	usleep(10000);
	reset_lock_stat();
	zap->run(&s);
	counts = read_mmu_lock_counts();
	WRITE_ONCE(stop, true);
	kvm_pthread_join(thread, NULL);
	printf("%s_write_us=%.1f\n%s_read_us=%.1f\n", zap->name, counts.longest_write,
	       zap->name, counts.longest_read);
	if (!zap->frees_vm)
		kvm_vm_free(s.vm);
}

static void measure(const struct zap *zap)
{
	s64 ns;
	int i;

	no_room = false;
	ns = measure_late(zap);
	if (no_room)
		return;

	if (use_lock_stat && CPU_COUNT(&allowed_cpus) > 1)
		measure_hold(zap);

	for (i = 0; i < nr_waits && !zap->frees_vm && CPU_COUNT(&allowed_cpus) > 1; i++)
		measure_wait(zap, ns);
}

static void *extra_mem;

static void add_slot(struct shadow_vm *s, u64 size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	__TEST_REQUIRE(s->gpa > sparse_size + SZ_4G, "Too few GPAs for a memslot of %lu bytes",
		       sparse_size);
	__TEST_REQUIRE(mem != MAP_FAILED, "mmap() of %lu bytes failed", size);
	vm_set_user_memory_region(s->vm, EXTRA_SLOT, 0, s->gpa - sparse_size, size, mem);
	extra_mem = mem;
}

static void add_small_slot(struct shadow_vm *s)
{
	add_slot(s, SZ_2M);
}

static void add_sparse_slot(struct shadow_vm *s)
{
	vm_enable_cap(s->vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	add_slot(s, sparse_size);
}

static void delete_slot(struct shadow_vm *s)
{
	vm_set_user_memory_region(s->vm, EXTRA_SLOT, 0, s->gpa - sparse_size, 0, NULL);
}

/* Deleting a memslot zaps all shadow pages.  The vCPU would make new ones, but doesn't run. */
static void add_sparse_slot_zap_all(struct shadow_vm *s)
{
	add_small_slot(s);
	delete_slot(s);
	add_slot(s, sparse_size);
}

static void unmap_sparse(struct shadow_vm *s)
{
	TEST_ASSERT(!madvise(extra_mem, sparse_size, MADV_DONTNEED), "Can't unmap memory");
}

static void shrink(struct shadow_vm *s)
{
	set_shadow_page_limit(s->vm, MIN_SHADOW_PAGES);
}

static void read_rmaps_stat(struct shadow_vm *s)
{
	char line[512];
	FILE *file;

	snprintf(line, sizeof(line), KVM_DEBUGFS "/%d-%d/mmu_rmaps_stat", getpid(),
		 s->vm->fd);
	file = fopen(line, "r");
	__TEST_REQUIRE(file, "No %s, which has the name of another PID in a PID namespace", line);
	while (fgets(line, sizeof(line), file))
		;
	fclose(file);
}

static void destroy(struct shadow_vm *s)
{
	kvm_vm_free(s->vm);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-l] [-n tables] [-r seed] [-s bytes] [-w waits]\n", name);
	puts("");
	printf(" -l: reset " LOCK_STAT " and say for how long mmu_lock is held\n");
	printf(" -n: number of page tables of the guest (default: 10000)\n");
	printf(" -r: seed of when to want mmu_lock (default: time)\n");
	printf(" -s: size of the large memslot (default: 64G)\n");
	printf(" -w: how often to measure how long one waits (default: 1)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	static const struct zap zaps[] = {
		{ .name = "shrink", .run = shrink },
		{ .name = "delete", .prepare = add_small_slot, .run = delete_slot },
		{ .name = "destroy", .run = destroy, .frees_vm = true },
		{ .name = "delete_sparse", .prepare = add_sparse_slot, .run = delete_slot },
		{ .name = "unmap_idle", .prepare = add_sparse_slot_zap_all, .run = unmap_sparse },
		{ .name = "refill", .prepare = shrink, .run = populate },
		{ .name = "zap_root", .run = zap_root },
		{ .name = "zap_root_unsync", .prepare = unsync, .run = zap_root },
		{ .name = "refault", .prepare = unsync_and_zap_root, .run = populate },
		{ .name = "rmaps_stat", .prepare = add_sparse_slot, .run = read_rmaps_stat },
	};
	u32 seed = time(NULL);
	size_t i;
	int opt;

	while ((opt = getopt(argc, argv, "hln:r:s:w:")) != -1) {
		switch (opt) {
		case 'l':
			use_lock_stat = true;
			break;
		case 'n':
			nr_tables = atoi_positive("Number of page tables", optarg);
			break;
		case 'r':
			seed = atoi_positive("Seed", optarg);
			break;
		case 's':
			sparse_size = parse_size(optarg);
			break;
		case 'w':
			nr_waits = atoi_non_negative("Number of waits", optarg);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}

	TEST_REQUIRE(shadow_vm_supported());
	__TEST_REQUIRE(!use_lock_stat || lock_stat_usable(), "No " LOCK_STAT);
	rng = new_kvm_random_state(seed);

	/* All threads on one CPU, but the one that waits. */
	get_allowed_cpus(&allowed_cpus);
	pin_self_to_nth_cpu(&allowed_cpus, 0);

	pr_info("Seed %u\n", seed);
	printf("tables=%lu\n", nr_tables);
	for (i = 0; i < ARRAY_SIZE(zaps); i++) {
		if (zaps[i].prepare == add_sparse_slot &&
		    !(kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_SLOT_ZAP_ALL))
			continue;
		if (zaps[i].run == read_rmaps_stat && access(KVM_DEBUGFS, X_OK))
			continue;
		measure(&zaps[i]);
	}
	return 0;
}

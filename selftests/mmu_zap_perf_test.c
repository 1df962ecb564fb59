// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure for how long zapping many shadow pages keeps a CPU, and mmu_lock, from others.
 *
 * A guest, or a nested guest if KVM uses TDP, has a page in each of many page tables, i.e.
 * needs as many shadow pages.  A thread of real-time priority on the CPU that zaps wants
 * to run once per millisecond: how late it is at worst ("late_ms") is how long the CPU did
 * not reschedule, as it does not with mmu_lock held.  That, and how long it takes, for
 *
 *  - lowering the limit of shadow pages to the lowest there is ("shrink");
 *  - deleting a memslot, which zaps all shadow pages ("delete");
 *  - deleting a large memslot without that quirk, whose memory no shadow page is for
 *    ("delete_sparse");
 *  - destroying the VM ("destroy").
 *
 * Results are one "key=value" a line.  All times are those of the machine the test
 * runs on, on an emulated one only ratios mean something.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "shadow_pages.h"
#include "test_util.h"
#include "ucall_common.h"

#define NSEC_PER_MSEC	1000000l

#define EXTRA_SLOT	12

static u64 nr_tables = 10000;
static u64 sparse_size = 64ul * SZ_1G;
static bool stop;

static void guest_code(void)
{
	u64 table;

	for (table = 0; table < nr_tables; table++)
		WRITE_ONCE(*guest_table_page(table), table);
	GUEST_DONE();
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

static void measure(const char *name, void (*op)(struct shadow_vm *), struct shadow_vm *s)
{
	struct sched_param param = { .sched_priority = 1 };
	pthread_attr_t attr;
	pthread_t thread;
	s64 worst = 0, start;

	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);

	stop = false;
	TEST_ASSERT(!pthread_create(&thread, &attr, be_on_time, &worst),
		    "Can't create a thread of real-time priority");
	usleep(10000);
	start = now_ns();
	op(s);
	printf("%s_ms=%.1f\n", name, (double)(now_ns() - start) / NSEC_PER_MSEC);
	WRITE_ONCE(stop, true);
	kvm_pthread_join(thread, NULL);
	printf("%s_late_ms=%.1f\n", name, (double)worst / NSEC_PER_MSEC);
}

static void create_populated(struct shadow_vm *s)
{
	struct ucall uc;

	shadow_vm_create(s, nr_tables, guest_code);
	sync_global_to_guest(s->vm, nr_tables);
	set_shadow_page_limit(s->vm, MAX_SHADOW_PAGES);
	vcpu_run(s->vcpu);
	TEST_ASSERT_EQ(get_ucall(s->vcpu, &uc), UCALL_DONE);
}

static void add_slot(struct shadow_vm *s, u64 size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() of %lu bytes failed", size);
	vm_set_user_memory_region(s->vm, EXTRA_SLOT, 0, s->gpa - sparse_size, size, mem);
}

static void delete_slot(struct shadow_vm *s)
{
	vm_set_user_memory_region(s->vm, EXTRA_SLOT, 0, s->gpa - sparse_size, 0, NULL);
}

static void shrink(struct shadow_vm *s)
{
	set_shadow_page_limit(s->vm, MIN_SHADOW_PAGES);
}

static void destroy(struct shadow_vm *s)
{
	kvm_vm_free(s->vm);
}

static void help(char *name)
{
	puts("");
	printf("usage: %s [-h] [-n tables] [-s bytes]\n", name);
	puts("");
	printf(" -n: number of page tables of the guest (default: 10000)\n");
	printf(" -s: size of the large memslot (default: 64G)\n");
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	struct shadow_vm s;
	cpu_set_t cpus;
	int opt;

	while ((opt = getopt(argc, argv, "hn:s:")) != -1) {
		switch (opt) {
		case 'n':
			nr_tables = atoi_positive("Number of page tables", optarg);
			break;
		case 's':
			sparse_size = parse_size(optarg);
			break;
		case 'h':
		default:
			help(argv[0]);
			break;
		}
	}

	TEST_REQUIRE(shadow_vm_supported());

	/* All threads on one CPU. */
	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity() failed");

	printf("tables=%lu\n", nr_tables);
	create_populated(&s);
	measure("shrink", shrink, &s);
	kvm_vm_free(s.vm);

	create_populated(&s);
	add_slot(&s, SZ_2M);
	measure("delete", delete_slot, &s);
	kvm_vm_free(s.vm);

	create_populated(&s);
	measure("destroy", destroy, &s);

	create_populated(&s);
	vm_enable_cap(s.vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_SLOT_ZAP_ALL);
	add_slot(&s, sparse_size);
	measure("delete_sparse", delete_slot, &s);
	kvm_vm_free(s.vm);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of the guest that ci/guest/programs/migrate.c migrates: writes to memory at a
 * given rate, checks all of it over and over, and tells on the console.
 *
 * Each CPU has a thread with pages of its own.  A page holds the number of the
 * last write to it, all over; what that number is, is also kept elsewhere, and
 * not in the page.  A write that migration loses leaves an older number.  Page
 * tables change all the time: pages become read-only, and writable again.
 *
 * From the kernel's command line, as environment: pages=N (of all threads),
 * rate=N (pages written per second, by all threads; less if the guest is held up),
 * nested=1 (pages are written by a VM that each thread has).
 * A line each 100 ms:
 *	guest: writes=N sweeps=N lost=N
 * sweeps: how often all pages were checked.  lost: pages found wrong.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>

#define PAGE_SIZE	4096
#define PAGE_WORDS	(PAGE_SIZE / sizeof(uint64_t))
#define MAX_THREADS	8
#define TICKS_PER_S	100
/* Where a nested VM has the worker's pages. */
#define PAGES_GPA	0x100000

struct worker {
	pthread_t thread;
	unsigned long nr_pages;
	unsigned long writes_per_tick;
	uint64_t rng;
	/* The memory, and what is in it. */
	uint64_t (*pages)[PAGE_WORDS];
	uint64_t *numbers;
	/* The VM that writes; its registers but for what changes. */
	int vcpu;
	struct kvm_run *run;
	struct kvm_sregs sregs;

	atomic_ulong writes;
	atomic_ulong sweeps;
	atomic_ulong lost;
};

static struct worker workers[MAX_THREADS];

/* xorshift64, by George Marsaglia. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static bool nested;

static void __attribute__((noreturn)) give_up(const char *what)
{
	printf("guest: %s failed\n", what);
	fflush(stdout);
	for (;;)
		pause();
}

static void *allocate(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (mem == MAP_FAILED)
		give_up("allocating memory");
	return mem;
}

static void add_memory(int vm, int slot, uint64_t gpa, void *mem, size_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)mem,
	};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		give_up("KVM_SET_USER_MEMORY_REGION");
}

/* A VM in real mode, whose code fills a page of ES with what is in AX. */
static void create_vm(struct worker *w)
{
	static const uint8_t code[] = { 0xf3, 0xab, /* rep stosw */ 0xf4 /* hlt */ };
	int kvm, vm;
	void *page;

	kvm = open("/dev/kvm", O_RDWR);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		give_up("KVM_CREATE_VM");
	page = allocate(PAGE_SIZE);
	memcpy(page, code, sizeof(code));
	add_memory(vm, 0, 0, page, PAGE_SIZE);
	add_memory(vm, 1, PAGES_GPA, w->pages, w->nr_pages * PAGE_SIZE);

	w->vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	w->run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		      MAP_SHARED, w->vcpu, 0);
	if (w->vcpu < 0 || w->run == MAP_FAILED || ioctl(w->vcpu, KVM_GET_SREGS, &w->sregs))
		give_up("KVM_CREATE_VCPU");
	w->sregs.cs.base = 0;
	w->sregs.cs.selector = 0;
}

/* Returns what a word of the page is then. */
static uint64_t write_nested(struct worker *w, unsigned long page, uint64_t number)
{
	struct kvm_regs regs = { .rax = number & 0xffff, .rcx = PAGE_SIZE / 2, .rflags = 2 };

	w->sregs.es.base = PAGES_GPA + page * PAGE_SIZE;
	if (ioctl(w->vcpu, KVM_SET_SREGS, &w->sregs) || ioctl(w->vcpu, KVM_SET_REGS, &regs) ||
	    ioctl(w->vcpu, KVM_RUN, 0) || w->run->exit_reason != KVM_EXIT_HLT)
		give_up("KVM_RUN");
	return (number & 0xffff) * 0x0001000100010001ull;
}

static void write_page(struct worker *w, unsigned long page)
{
	volatile uint64_t *words = w->pages[page];
	uint64_t number = w->numbers[page] + 1;
	unsigned long i;

	if (nested) {
		number = write_nested(w, page, number);
	} else {
		for (i = 0; i < PAGE_WORDS; i++)
			words[i] = number;
	}
	w->numbers[page] = number;
	w->writes++;
}

/* Have its PTE change, and TLBs flushed, twice. */
static void protect_page(struct worker *w, unsigned long page)
{
	if (mprotect(w->pages[page], PAGE_SIZE, PROT_READ) ||
	    mprotect(w->pages[page], PAGE_SIZE, PROT_READ | PROT_WRITE))
		give_up("mprotect()");
}

static void check_page(struct worker *w, unsigned long page)
{
	volatile uint64_t *words = w->pages[page];
	unsigned long i;

	for (i = 0; i < PAGE_WORDS; i++) {
		if (words[i] != w->numbers[page]) {
			w->lost++;
			return;
		}
	}
}

static void *work(void *arg)
{
	const struct timespec tick = { .tv_nsec = 1000000000 / TICKS_PER_S };
	struct worker *w = arg;
	unsigned long i, page = 0;

	for (;;) {
		for (i = 0; i < w->writes_per_tick; i++)
			write_page(w, next_random(&w->rng) % w->nr_pages);
		protect_page(w, next_random(&w->rng) % w->nr_pages);

		/* A sweep takes a second or so. */
		for (i = 0; i < w->nr_pages / TICKS_PER_S + 1; i++) {
			check_page(w, page);
			if (++page == w->nr_pages) {
				page = 0;
				w->sweeps++;
			}
		}
		nanosleep(&tick, NULL);
	}
	return NULL;
}

static unsigned long argument(const char *name)
{
	const char *value = getenv(name);

	if (!value || !atol(value)) {
		printf("guest: no %s=\n", name);
		exit(1);
	}
	return atol(value);
}

int main(void)
{
	long i, nr = sysconf(_SC_NPROCESSORS_ONLN);

	if (nr > MAX_THREADS)
		nr = MAX_THREADS;
	/* Of an initramfs without anything. */
	nested = getenv("nested");
	if (nested) {
		mkdir("/dev", 0755);
		mknod("/dev/kvm", S_IFCHR | 0600, makedev(10, 232));
	}
	for (i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		w->nr_pages = argument("pages") / nr;
		w->writes_per_tick = argument("rate") / TICKS_PER_S / nr;
		w->rng = i + 1;
		w->pages = allocate(w->nr_pages * PAGE_SIZE);
		w->numbers = allocate(w->nr_pages * sizeof(*w->numbers));
		if (nested)
			create_vm(w);
		pthread_create(&w->thread, NULL, work, w);
	}

	for (;;) {
		unsigned long writes = 0, sweeps = -1ul, lost = 0;

		for (i = 0; i < nr; i++) {
			writes += workers[i].writes;
			lost += workers[i].lost;
			if (workers[i].sweeps < sweeps)
				sweeps = workers[i].sweeps;
		}
		printf("guest: writes=%lu sweeps=%lu lost=%lu\n", writes, sweeps, lost);
		fflush(stdout);
		usleep(100000);
	}
}

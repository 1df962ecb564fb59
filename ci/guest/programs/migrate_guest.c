// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of the guest that ci/guest/programs/migrate.c migrates: writes to memory at a
 * given rate, checks all of it over and over, and tells on the console.
 *
 * Each CPU has a thread with pages of its own.  A page holds the number of the
 * last write to it, all over; what that number is, is also kept elsewhere, and
 * not in the page.  A write that migration loses leaves an older number.
 *
 * From the kernel's command line, as environment: pages=N (of all threads),
 * rate=N (pages written per second, by all threads; less if the guest is held up).
 * A line each 100 ms:
 *	guest: writes=N sweeps=N lost=N
 * sweeps: how often all pages were checked.  lost: pages found wrong.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_SIZE	4096
#define PAGE_WORDS	(PAGE_SIZE / sizeof(uint64_t))
#define MAX_THREADS	8
#define TICKS_PER_S	100

struct worker {
	pthread_t thread;
	unsigned long nr_pages;
	unsigned long writes_per_tick;
	uint64_t rng;
	/* The memory, and what is in it. */
	uint64_t (*pages)[PAGE_WORDS];
	uint64_t *numbers;

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

static void write_page(struct worker *w, unsigned long page)
{
	volatile uint64_t *words = w->pages[page];
	uint64_t number = w->numbers[page] + 1;
	unsigned long i;

	for (i = 0; i < PAGE_WORDS; i++)
		words[i] = number;
	w->numbers[page] = number;
	w->writes++;
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

static void *allocate(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (mem == MAP_FAILED) {
		printf("guest: no memory for %zu bytes\n", size);
		exit(1);
	}
	return mem;
}

int main(void)
{
	long i, nr = sysconf(_SC_NPROCESSORS_ONLN);

	if (nr > MAX_THREADS)
		nr = MAX_THREADS;
	for (i = 0; i < nr; i++) {
		struct worker *w = &workers[i];

		w->nr_pages = argument("pages") / nr;
		w->writes_per_tick = argument("rate") / TICKS_PER_S / nr;
		w->rng = i + 1;
		w->pages = allocate(w->nr_pages * PAGE_SIZE);
		w->numbers = allocate(w->nr_pages * sizeof(*w->numbers));
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

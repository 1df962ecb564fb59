/* SPDX-License-Identifier: GPL-2.0-only */
/* Threads of real-time priority. */
#ifndef SELFTEST_KVM_REAL_TIME_H
#define SELFTEST_KVM_REAL_TIME_H

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

/* False without the privilege to have such a thread. */
static inline bool start_real_time(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	struct sched_param param = { .sched_priority = 1 };
	pthread_attr_t attr;
	bool started;

	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	started = !pthread_create(thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	return started;
}

#endif /* SELFTEST_KVM_REAL_TIME_H */

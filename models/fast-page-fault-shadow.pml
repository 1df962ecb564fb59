/*
 * fast-page-fault-indirect.pml, but for the lock of the rmap, which nobody takes to fix a fault:
 * instead, between zapping an SPTE and adding it to the rmap of its new gfn, TLBs are flushed,
 * which waits for vCPUs that are walking page tables.  This suffices as long as no zapping leaves
 * its flush for later.
 *
 * Broken: NO_WAIT FLUSH_LAST MARK_OMITTED PLAIN_STORE PROTECT_FIRST
 */
#define ZAP_WAITS
#include "fast-page-fault-indirect.pml"

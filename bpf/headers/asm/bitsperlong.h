/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The generic one serves every target, and needs no multiarch include path. */
#include <asm-generic/bitsperlong.h>

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The object is built for little-endian machines only. */
#include <linux/byteorder/little_endian.h>

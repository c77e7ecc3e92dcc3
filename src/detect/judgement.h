// Judgement: what the analyser makes of the checks' reports, one after the other and of all
// instances. For those outside of this module.
#pragma once

#include "detect/findings/finding_ledger.h"
#include "detect/findings/odd_one_out.h"

// The language header has it all.
#pragma once

// Do llama.cpp and the transformers adapter measure the same damage and sensitivity in the same model?
#include <catch2/catch.hpp>

#include "tests/capture/tiny_model.h"
#include "tests/python/python.h"

using namespace evictsim;

TEST_CASE("one model under two engines loses the same") {
  tests::write_tiny_model("tiny.gguf", {});
  CHECK(test::with_adapters("tests/python/engines_agree.py tiny.gguf") == 0);
}

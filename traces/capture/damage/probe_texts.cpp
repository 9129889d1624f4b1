#include "traces/capture/damage/probe_texts.h"

#include <fmt/format.h>

#include <array>
#include <cstddef>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

using Tokens = std::vector<std::int32_t>;

/// The beginning of what is repeated stands in the prompt, so that the model can know what comes.
constexpr std::size_t cue_length = 16;

constexpr std::array places = {"harbour office", "east cellar",  "bell tower",  "old mill",
                               "glass house",    "post station", "north gate",  "paper store",
                               "ferry house",    "stone barn",   "water tower", "green chapel",
                               "upper stable",   "salt depot",   "clock room",  "garden shed"};

void require(std::size_t available, std::size_t needed, TextKind kind, const char* parameter) {
  if (available >= needed) return;
  throw Error(ErrorCode::invalid_argument,
              fmt::format("a text of the kind '{}' needs {} tokens here; give a longer one, or a smaller length",
                          to_string(kind), needed),
              {.parameter = parameter, .value = fmt::format("{} tokens", available)});
}

void append(Tokens& tokens, std::span<const std::int32_t> more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

SequencePlan plan_of(Tokens prompt, Tokens continuation) {
  SequencePlan plan;
  plan.prompt_tokens = std::move(prompt);
  plan.continuation_tokens = std::move(continuation);
  return plan;
}

SequencePlan prose_of(std::span<const std::int32_t> source, std::size_t length, std::size_t rows) {
  require(source.size(), length + rows, TextKind::prose, "prompt");
  const auto behind = source.subspan(length, rows);
  return plan_of({source.begin(), source.begin() + static_cast<std::ptrdiff_t>(length)},
                 {behind.begin(), behind.end()});
}

SequencePlan copy_of(std::span<const std::int32_t> source, std::size_t length, std::size_t rows) {
  require(length, 2 * (cue_length + rows), TextKind::copy, "length");
  const std::size_t read = length - cue_length;
  require(source.size(), read, TextKind::copy, "prompt");
  const auto again = source.subspan((read - cue_length - rows) / 4, cue_length + rows);
  Tokens prompt(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(read));
  append(prompt, again.first(cue_length));
  const auto behind = again.subspan(cue_length);
  return plan_of(std::move(prompt), {behind.begin(), behind.end()});
}

SequencePlan facts_of(std::span<const std::int32_t> source, std::size_t length, std::size_t rows,
                      const Tokenize& tokenize) {
  // Recited until the rows are full; the facts are then planted in the same number.
  Tokens recited = tokenize("\n\nHere is every code that was mentioned above.");
  const std::size_t asked = recited.size();
  std::vector<Tokens> facts;
  for (std::size_t i = 0; recited.size() < asked + rows; ++i) {
    if (i == places.size()) {
      throw Error(ErrorCode::invalid_argument, fmt::format("facts fill {} rows at most", recited.size() - asked),
                  {.parameter = "rows", .value = std::to_string(rows)});
    }
    // Numbers without a pattern that a model could guess.
    const std::size_t code = 1009 + 7919 * (i + 3) * (i + 11) % 8983;
    append(recited, tokenize(fmt::format("\nThe code of the {} is {}.", places[i], code)));
    facts.push_back(tokenize(fmt::format(" The code of the {} is {}.", places[i], code)));
  }
  std::size_t planted = 0;
  for (const Tokens& fact : facts) planted += fact.size();
  require(length, planted + asked + facts.size(), TextKind::facts, "length");
  const std::size_t prose = length - planted - asked;
  require(source.size(), prose, TextKind::facts, "prompt");
  Tokens prompt;
  std::size_t read = 0;
  // Evenly spread, and in another order than they are recited in.
  for (std::size_t i = 0; i < facts.size(); ++i) {
    const std::size_t until = prose * (i + 1) / (facts.size() + 1);
    append(prompt, source.subspan(read, until - read));
    read = until;
    append(prompt, facts[facts.size() - 1 - i]);
  }
  append(prompt, source.subspan(read, prose - read));
  append(prompt, std::span(recited).first(asked));
  const auto behind = std::span<const std::int32_t>(recited).subspan(asked, rows);
  return plan_of(std::move(prompt), {behind.begin(), behind.end()});
}

}  // namespace

const char* to_string(TextKind kind) noexcept {
  switch (kind) {
    case TextKind::prose:
      return "prose";
    case TextKind::copy:
      return "copy";
    default:
      return "facts";
  }
}

SequencePlan make_text(TextKind kind, std::span<const std::int32_t> source, const TextShape& shape,
                       const Tokenize& tokenize) {
  for (const auto& [parameter, value] : {std::pair{"length", shape.length}, std::pair{"rows", shape.rows}}) {
    if (value < 1) {
      throw Error(ErrorCode::invalid_argument, "must be at least 1",
                  {.parameter = parameter, .value = std::to_string(value)});
    }
  }
  const auto length = static_cast<std::size_t>(shape.length), rows = static_cast<std::size_t>(shape.rows);
  switch (kind) {
    case TextKind::prose:
      return prose_of(source, length, rows);
    case TextKind::copy:
      return copy_of(source, length, rows);
    default:
      return facts_of(source, length, rows, tokenize);
  }
}

const std::string& built_in_prose() {
  static const std::string prose =
      R"(The road to the coast left the town behind the brewery and climbed for an hour between walls of loose stone. In the first week of April it was still wet, and the carter, who knew every hole in it, walked beside his horse with one hand on the bridle and talked about the price of barley. Nobody answered him. The two women on the cart had slept badly at the inn and were looking at the fields, where men in grey coats were burning the last of the winter hedge; the boy had been told to hold the box with the instruments, and held it, and thought of nothing else.

At the top the wind came. It came from the sea, which they could not see yet, and it brought a smell of salt and tar that made the older woman sit up and put her hat straight. She had been born down there, in the third house behind the chapel, and had not been back for twenty-six years. Her sister had written every Christmas, then every other Christmas, then only when somebody had died. Now the sister herself was ill, the doctor in the village was eighty years old, and a letter had come in a hand that nobody knew: come soon, and bring a surgeon if you can pay for one.

The surgeon was the younger woman. She had studied in a city where women were not yet examined, had been examined all the same by two professors who wished to see her fail, and had not failed. Since then she had worked for nine years in a hospital for sailors. She did not speak much about it. When people asked her how she could bear it she said that most of it was washing, and that the rest was sewing, and that she had been taught both at home.

About noon they stopped at a farm to water the horse. The farmer's wife brought bread and a jug of thin beer and would take no money. She had heard of the sick woman, as everybody had; it was the lungs, she said, or else grief, because the husband had gone out after herring in the autumn storms and only the boat had been found, upside down, with the nets still in it. There were three children. The eldest was fourteen and had taken a place in the rope works, walking there before daylight and home after dark, and it was he who had written the letter.

The surgeon asked whether there was a room in the house with a window to the south. The farmer's wife did not know. She asked whether the well was above or below the stable, and whether the children coughed. The farmer's wife looked at her with more respect, counted on her fingers, and answered as well as she could. Then she went in and came back with a hen, tied at the feet, and a bag of dried apples, and put them on the cart beside the boy without saying for whom they were.

In the afternoon the sky cleared. They went down through a wood of small crooked oaks, all leaning inland, and the carter showed them the place where his father had met the excise men with eleven barrels of brandy under a load of seaweed, and how he had sung to keep the horse quiet, and what the song was. The older woman laughed for the first time since they had set out. She knew the song; her mother had sung it, with other words. She began it, and after a while the carter joined in, a third lower, and the boy forgot the box and beat time on it with his heels until the surgeon, without turning her head, laid her hand on his knee.

So they came into the village at last, a little before sunset, with the tide far out and the boats lying on their sides in the mud like cattle. Children ran ahead to open the gate. In the door of the third house stood a tall boy in a leather apron, with his cap in his hand, and behind him, wrapped in a blanket, pale, upright and very angry at being seen so, stood the woman whom they had come to save.)";
  return prose;
}

}  // namespace evictsim::traces::capture

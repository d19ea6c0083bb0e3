// SPDX-License-Identifier: Apache-2.0
#include "bindings/model.h"

#include <map>

#include "bindings/convert_values.h"
#include "bindings/request_sink.h"
#include "errors.h"

namespace chatspace {

struct ModelFacts {
  ModelInfo info;
  std::vector<Site> sites;  // hooks left out
  std::vector<std::pair<std::string, std::string>> tree;
  std::map<std::string, std::string> extra_files;
};

namespace {

constexpr napi_type_tag kModelTag = {0x6368617473706163, 0x652d6d6f64656c31};

struct Opened {
  std::shared_ptr<Engine> engine;
  std::shared_ptr<const ModelFacts> facts;
};

std::shared_ptr<const ModelFacts> facts_of(const Decoder& decoder) {
  auto facts = std::make_shared<ModelFacts>();
  facts->info = decoder.info();
  for (const Site& site : decoder.sites().list()) facts->sites.push_back({site.name, site.path, site.width, {}, site.order});
  facts->tree = decoder.module_tree();
  facts->extra_files = decoder.extra_files();
  return facts;
}

// Runs `work` and turns what it throws into a JavaScript error with a code.
template <typename Work>
auto entry(Napi::Env env, const Work& work) {
  try {
    return work();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    const std::exception_ptr thrown = std::current_exception();
    throw to_js_error(env, guard([&] { std::rethrow_exception(thrown); }));
  }
}

}  // namespace

void Model::define(Napi::Env env) {
  const Napi::Function constructor = DefineClass(
      env, "NativeModel",
      {InstanceAccessor<&Model::info>("info"), InstanceMethod<&Model::extra_file>("extraFile"),
       InstanceMethod<&Model::set_token_bytes>("setTokenBytes"), InstanceMethod<&Model::submit>("submit"),
       InstanceMethod<&Model::hold>("hold"), InstanceMethod<&Model::abort>("abort"),
       InstanceMethod<&Model::acknowledge>("acknowledge"), InstanceMethod<&Model::module_tree>("moduleTree"),
       InstanceMethod<&Model::stats>("stats"), InstanceMethod<&Model::dispose>("dispose")});
  EnvData::of(env).model_class = Napi::Persistent(constructor);
}

Model::Model(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Model>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "a NativeModel comes from load()");
  }
  info.This().As<Napi::Object>().TypeTag(&kModelTag);
  const Opened* opened = info[0].As<Napi::External<Opened>>().Data();
  engine_ = opened->engine;
  facts_ = opened->facts;
  queue_ = EnvData::of(info.Env()).queue();
}

Model::~Model() {
  // Collected without dispose(): the engine is shut down elsewhere, since joining would block the
  // JavaScript thread. The environment's own list waits for it. When the environment itself ends, its
  // cleanup hook has shut the engine down before objects die, and its data may be gone.
  if (engine_ == nullptr || queue_->closed()) return;
  EnvData::of(Env()).background([engine = std::move(engine_)] { engine->shutdown(); });
}

Napi::Value Model::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  const LoadOptions options =
      entry(env, [&] { return to_load_options(Fields(info[0].As<Napi::Object>(), "load")); });
  auto queue = EnvData::of(env).queue();
  queue->hold(env);
  auto opened = std::make_shared<Opened>();
  opened->engine = std::make_shared<Engine>(options, [queue, opened, deferred](const Decoder* decoder,
                                                                               const Failure& failure) {
    if (decoder != nullptr) opened->facts = facts_of(*decoder);
    queue->post([queue, opened, deferred, failure](Napi::Env js) {
      queue->release(js);
      if (failure) {
        // The thread has ended or is about to; joining it costs nothing.
        opened->engine->shutdown();
        opened->engine.reset();
        deferred->Reject(to_js_error(js, failure).Value());
        return;
      }
      const Napi::Object model = EnvData::of(js).model_class.New({Napi::External<Opened>::New(js, opened.get())});
      opened->engine.reset();
      deferred->Resolve(model);
    });
  });
  EnvData::of(env).track(opened->engine);
  return deferred->Promise();
}

Engine& Model::engine(Napi::Env env) {
  if (engine_ == nullptr) throw to_js_error(env, {"ERR_DISPOSED", "the model is disposed", "{}"});
  return *engine_;
}

Napi::Value Model::info(const Napi::CallbackInfo& info) {
  if (info_.IsEmpty()) info_ = Napi::Persistent(to_js(info.Env(), facts_->info, facts_->sites));
  return info_.Value();
}

Napi::Value Model::extra_file(const Napi::CallbackInfo& info) {
  const auto found = facts_->extra_files.find(info[0].ToString().Utf8Value());
  if (found == facts_->extra_files.end()) return info.Env().Null();
  const std::string& bytes = found->second;
  auto array = Napi::Uint8Array::New(info.Env(), bytes.size());
  std::memcpy(array.Data(), bytes.data(), bytes.size());
  return array;
}

void Model::set_token_bytes(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  entry(env, [&] {
    auto table = std::make_shared<TokenBytes>();
    const Napi::Object holder = Napi::Object::New(env);
    holder.Set("bytes", info[0]);
    holder.Set("offsets", info[1]);
    const Fields fields(holder, "setTokenBytes");
    table->bytes = fields.bytes("bytes");
    table->offsets = fields.ints("offsets");
    int32_t before = 0;
    for (int32_t offset : table->offsets) {
      if (offset < before || static_cast<size_t>(offset) > table->bytes.size()) {
        throw Error("ERR_NATIVE_ARGUMENT", "setTokenBytes: offsets must ascend within the bytes");
      }
      before = offset;
    }
    engine(env).set_token_bytes(std::move(table));
    return 0;
  });
}

Napi::Value Model::submit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Engine& target = engine(env);
  return entry(env, [&]() -> Napi::Value {
    RequestSpec spec = to_request(Fields(info[0].As<Napi::Object>(), "request"));
    const int64_t vocab = facts_->info.vocab_size;
    for (int64_t token : spec.tokens) {
      if (token < 0 || token >= vocab) {
        throw Error("ERR_TOKEN_RANGE", text("token ", token, " is outside the vocabulary of ", vocab));
      }
    }
    const int64_t context = facts_->info.context_length;
    if (context > 0 && static_cast<int64_t>(spec.tokens.size()) > context) {
      throw Error("ERR_PROMPT_TOO_LONG",
                  text("the prompt has ", spec.tokens.size(), " tokens, the model's context ", context));
    }
    const int64_t hidden = facts_->info.hidden_size;
    if (static_cast<int64_t>(spec.given.size()) != static_cast<int64_t>(spec.given_rows.size()) * hidden) {
      throw Error("ERR_NATIVE_ARGUMENT", text("embeddings: expected ", spec.given_rows.size(), " x ", hidden));
    }
    for (int32_t row : spec.given_rows) {
      if (row < 0 || static_cast<size_t>(row) >= spec.tokens.size()) {
        throw Error("ERR_NATIVE_ARGUMENT", text("embeddingRows: row ", row, " is outside the prompt"));
      }
    }
    if (!info[1].IsFunction()) throw Error("ERR_NATIVE_ARGUMENT", "onEvent: expected a function");
    const uint64_t key = queue_->keep(info[1].As<Napi::Function>());
    // The object and the environment live until the last event.
    Ref();
    queue_->hold(env);
    auto sink = std::make_shared<RequestSink>(queue_, key, [this, queue = queue_](Napi::Env js) {
      queue->release(js);
      Unref();
    });
    return Napi::Number::New(env, static_cast<double>(target.submit(std::move(spec), std::move(sink))));
  });
}

void Model::abort(const Napi::CallbackInfo& info) {
  if (engine_ != nullptr && info[0].IsNumber()) engine_->abort(info[0].As<Napi::Number>().Int64Value());
}

void Model::hold(const Napi::CallbackInfo& info) {
  if (engine_ != nullptr && info[0].IsBoolean()) engine_->hold(info[0].As<Napi::Boolean>().Value());
}

void Model::acknowledge(const Napi::CallbackInfo& info) {
  if (engine_ == nullptr || !info[0].IsNumber() || !info[1].IsNumber()) return;
  engine_->acknowledge(info[0].As<Napi::Number>().Int64Value(), info[1].As<Napi::Number>().Int64Value());
}

Napi::Value Model::module_tree(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env, facts_->tree.size());
  for (size_t i = 0; i < facts_->tree.size(); ++i) {
    Napi::Object each = Napi::Object::New(env);
    each.Set("path", facts_->tree[i].first);
    each.Set("type", facts_->tree[i].second);
    out.Set(static_cast<uint32_t>(i), each);
  }
  return out;
}

Napi::Value Model::stats(const Napi::CallbackInfo& info) { return to_js(info.Env(), engine(info.Env()).stats()); }

Napi::Value Model::dispose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  if (engine_ == nullptr) {
    deferred->Resolve(env.Undefined());
    return deferred->Promise();
  }
  queue_->hold(env);
  EnvData::of(env).background([engine = std::move(engine_), queue = queue_, deferred]() mutable {
    engine->shutdown();
    engine.reset();
    queue->post([queue, deferred](Napi::Env js) {
      queue->release(js);
      deferred->Resolve(js.Undefined());
    });
  });
  engine_.reset();
  return deferred->Promise();
}

}  // namespace chatspace

\set one random(1, :products - 1)
\set two :one + 1
\set customer random(1, :customers)
BEGIN;
INSERT INTO orders (user_id, status, payment_method, total_cents, total_points, currency, email, idempotency_key, request_hash) VALUES (numbered(:customer), 'pending', 'points', 0, 20, 'usd', decode(repeat('ab', 47), 'hex'), gen_random_uuid()::text, decode(repeat('ab', 32), 'hex')) RETURNING id AS order \gset
INSERT INTO order_items (order_id, user_id, product_id, title, price_cents, price_points, quantity) VALUES (:order::uuid, numbered(:customer), numbered(:one), 'Bench', 100, 10, 1), (:order::uuid, numbered(:customer), numbered(:two), 'Bench', 100, 10, 1);
INSERT INTO order_history (order_id, user_id, to_status, actor, reason) VALUES (:order::uuid, numbered(:customer), 'pending', 'customer', 'placed');
UPDATE product_inventory SET reserved_quantity = reserved_quantity + 1 WHERE product_id IN (numbered(:one), numbered(:two));
INSERT INTO stock_reservations (order_id, product_id, user_id, quantity) VALUES (:order::uuid, numbered(:one), numbered(:customer), 1), (:order::uuid, numbered(:two), numbered(:customer), 1);
INSERT INTO saga_runs (order_id, saga, user_id, step) VALUES (:order::uuid, 'place_order_with_points/v1', numbered(:customer), 'reserve_points');
COMMIT;
BEGIN;
UPDATE wallet.profiles SET points = points - 20, ledger_seq = ledger_seq + 1 WHERE id = numbered(:customer) RETURNING ledger_seq AS seq \gset
INSERT INTO wallet.holds (user_id, order_id, points, status, due_at) VALUES (numbered(:customer), :order::uuid, 20, 'captured', now());
INSERT INTO wallet.points_transactions (id, user_id, seq, amount, type, description, order_id, idempotency_key, balance_after, prev_hash, hash, hash_version) VALUES (uuidv7(), numbered(:customer), :seq::bigint + 1, -20, 'spend', 'Images', :order::uuid, 'spend:' || :order, 0, sha256('\x00'), sha256('\x01'), 1);
COMMIT;
BEGIN;
UPDATE orders SET status = 'completed', version = version + 1, fulfilled_at = now(), updated_at = now() WHERE id = :order::uuid;
UPDATE product_inventory SET stock_quantity = stock_quantity - 1, reserved_quantity = reserved_quantity - 1 WHERE product_id IN (numbered(:one), numbered(:two));
UPDATE stock_reservations SET status = 'taken' WHERE order_id = :order::uuid;
INSERT INTO stock_movements (product_id, delta, reason, order_id, actor) VALUES (numbered(:one), -1, 'sold', :order::uuid, 'saga'), (numbered(:two), -1, 'sold', :order::uuid, 'saga');
INSERT INTO order_history (order_id, user_id, from_status, to_status, actor, reason) VALUES (:order::uuid, numbered(:customer), 'pending', 'completed', 'saga', 'points_reserved');
INSERT INTO download_grants (order_id, product_id, user_id, downloads_left, reissues_left, expires_at) VALUES (:order::uuid, numbered(:one), numbered(:customer), 5, 3, now() + interval '30 d'), (:order::uuid, numbered(:two), numbered(:customer), 5, 3, now() + interval '30 d');
INSERT INTO mails (order_id, kind, user_id, sent_at) VALUES (:order::uuid, 'receipt', numbered(:customer), now()), (:order::uuid, 'downloads', numbered(:customer), now());
INSERT INTO outbox (subject, payload, sent_at) VALUES ('orders.order.completed', decode(repeat('ab', 90), 'hex'), now());
UPDATE saga_runs SET status = 'done', step = 'capture_points', updated_at = now() WHERE order_id = :order::uuid;
COMMIT;
